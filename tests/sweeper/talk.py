"""What workers and trainers say, for tests that speak to the service in their place."""

from __future__ import annotations

from typing import Any

import httpx
from optuna.trial import FrozenTrial
from sqlalchemy import func, select

from sweeper import handout, ingest, leases
from sweeper.protocol import Delivery, Goodbye, Grant, Hello, LeaseRequest, NoWork, Numbered, Receipt
from sweeper.service import Service, find_study, spec_of
from sweeper.tables import Base, RunRow, StudyRow
from trainer import events

SPEC: dict[str, Any] = {
    "name": "tiny",
    "profile": "cpu",
    "trials": 4,
    "space": {
        "optim.matrix_lr": {"log": [0.005, 0.1], "tie": {"optim.scalar_lr": 1.0}},
        "model.num_layers": {"int": [1, 3]},
    },
    "budget": {"tokens": 10_240, "rungs": [0.3, 0.6]},
    "sampler": {"type": "tpe", "startup_trials": 2, "seed": 7},
    "pruner": {"type": "halving", "factor": 2},
    "base": {"data": {"batch_tokens": 1024}},
    "data": {"name": "small", "tokenizer": "sweeper1024"},
    "promote": {"tokens": "20x"},
    "retries": 1,
}
TOKENS = 10_240


def start() -> dict[str, Any]:
    return events.to_dict(
        events.Start(
            device="cpu",
            device_name="test processor",
            versions={"python": "3"},
            parameters=1000,
            micro_batch_tokens=1024,
            accumulation=1,
            setup_seconds=0.1,
        )
    )


def step(share: float, loss: float = 4.0) -> dict[str, Any]:
    return events.to_dict(
        events.Step(
            step=round(10 * share),
            tokens=round(TOKENS * share),
            seconds=2 * share,
            progress=share,
            train_loss=loss,
            lr_factor=1.0,
            tokens_per_second=5120.0,
        )
    )


def evaluation(share: float, bpb: float) -> dict[str, Any]:
    return events.to_dict(
        events.Eval(
            step=round(10 * share),
            tokens=round(TOKENS * share),
            seconds=2 * share,
            progress=share,
            fraction=share,
            val_loss=bpb * 2,
            val_bpb=bpb,
            val_tokens=100,
            eval_seconds=0.1,
        )
    )


def outcome(bpb: float) -> dict[str, Any]:
    return events.to_dict(
        events.Outcome(step=10, tokens=TOKENS, seconds=2.0, val_loss=bpb * 2, val_bpb=bpb, val_tokens=100)
    )


def score(name: str, bpb: float) -> dict[str, Any]:
    return events.to_dict(
        events.Score(
            name=name,
            step=10,
            tokens=TOKENS,
            seconds=2.0,
            val_loss=bpb * 2,
            val_bpb=bpb,
            val_tokens=90,
            eval_seconds=0.5,
            val_bpb_stderr=0.002,
        )
    )


def export(size: int, bpb: float = 2.5) -> dict[str, Any]:
    return events.to_dict(
        events.Export(
            scheme="int8",
            codec="zlib",
            artifact_bytes=size,
            code_bytes=0,
            raw_bytes=2 * size,
            val_bpb=bpb,
            gap=0.01,
            export_seconds=0.5,
        )
    )


def end(reason: str = "complete", detail: str = "", memory: int = 0) -> dict[str, Any]:
    return events.to_dict(
        events.End(
            reason=reason,
            step=10,
            tokens=TOKENS,
            seconds=2.0,
            wall_seconds=3.0,
            detail=detail,
            peak_memory_bytes=memory,
        )
    )


def failure(reason: str, message: str = "something broke") -> dict[str, Any]:
    return events.to_dict(events.Failure(reason=reason, message=message))


def whole(bpb: float) -> list[dict[str, Any]]:
    """All that a run says which ends at this score, without rungs."""
    return [start(), step(0.5), evaluation(1.0, bpb), outcome(bpb), end()]


def delivery(*said: dict[str, Any], first: int = 0) -> Delivery:
    return Delivery(events=[Numbered(seq=first + place, at=1.0e9, event=event) for place, event in enumerate(said)])


HELLO = {"worker": "w1", "host": "here", "pid": 1, "device": "cpu", "device_name": "test"}


def post(client: httpx.Client, path: str, body: Any = None, expect: int = 200) -> Any:
    """The JSON that a POST is answered with, under the expected status."""
    answer = client.post(path, json=body)
    assert answer.status_code == expect, answer.text
    return answer.json()


def numbered(*said: dict[str, Any], first: int = 0) -> dict[str, Any]:
    """The body of a delivery."""
    return delivery(*said, first=first).model_dump(mode="json")


def join(service: Service, worker: str) -> None:
    leases.hello(service, Hello(worker=worker, host="here", pid=1, device="cpu", device_name="test"))


def ask(service: Service, worker: str = "w1", **request: Any) -> Grant | NoWork:
    answer = handout.lease(service, worker, LeaseRequest(**request))
    given = answer.grant or answer.no_work
    assert given is not None
    return given


def take(service: Service, worker: str = "w1", **request: Any) -> Grant:
    """A grant, where one is due."""
    join(service, worker)
    grant = ask(service, worker, **request)
    assert isinstance(grant, Grant), grant
    return grant


def say(service: Service, grant: Grant, *said: dict[str, Any], first: int = 0) -> Receipt:
    return ingest.deliver(service, grant.lease, delivery(*said, first=first))


def leave(service: Service, worker: str, reason: str = "interrupted") -> str:
    return leases.goodbye(service, worker, Goodbye(reason=reason)).message


def trials(service: Service, name: str = "tiny") -> list[FrozenTrial]:
    """Optuna's trials, as the database has them."""
    with service.read() as session:
        row = find_study(session, name)
    with service.turn(row.id):
        return service.search(spec_of(row)).trials()


def states(service: Service, name: str = "tiny") -> list[str]:
    return [trial.state.name for trial in trials(service, name)]


def runs(service: Service) -> list[RunRow]:
    """All runs, oldest first."""
    with service.read() as session:
        return list(session.scalars(select(RunRow).order_by(RunRow.id)))


def study_row(service: Service, name: str = "tiny") -> StudyRow:
    with service.read() as session:
        return find_study(session, name)


def count(service: Service, table: type[Base]) -> int:
    """Rows of a table."""
    with service.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0
