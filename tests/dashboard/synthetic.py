"""Studies as a service would have left them in the database, written through the tables themselves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, create_engine, insert, update
from sqlalchemy.orm import Session

from sweeper.tables import (
    Base,
    EventRow,
    MessageRow,
    OutcomeRow,
    PointRow,
    PromotionRow,
    RunRow,
    StudyRow,
    WorkerRow,
)
from trainer.config import TrainConfig

SPACE: dict[str, Any] = {
    "optim.matrix_lr": {"log": [0.005, 0.1], "tie": {"optim.scalar_lr": 1.0}},
    "optim.matrix_weight_decay": {"uniform": [0.0, 0.3], "tie": {}, "step": None},
    "data.batch_tokens": {"choice": [4096, 8192, 16384], "tie": {}},
    "model.num_layers": {"int": [2, 6], "step": 1, "log": False, "tie": {}},
}
RUNGS = (0.3, 0.6)


def new_engine(folder: Path) -> Engine:
    """An empty database in a file, in the mode in which the service opens it."""
    engine = create_engine(f"sqlite:///{folder / 'sweeper.db'}")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    Base.metadata.create_all(engine)
    return engine


def spec(name: str, trials: int) -> dict[str, Any]:
    """A study file as the service stores it."""
    return {
        "name": name,
        "description": "Learning rate, weight decay, batch and depth of a small GPT.",
        "profile": "cpu",
        "trials": trials,
        "space": SPACE,
        "budget": {"seconds": 20.0, "tokens": None, "steps": None, "rungs": list(RUNGS)},
        "promote": {"tokens": "20x"},
    }


class Writer:
    """Adds rows to one study, with a fixed random stream."""

    def __init__(self, engine: Engine, name: str = "lr-wd-batch", *, trials: int = 16, now: float = 0.0) -> None:
        self.engine = engine
        self.name = name
        self.random = np.random.default_rng(7)
        self.now = now or time.time()
        with Session(engine) as session:
            row = StudyRow(
                name=name, spec=spec(name, trials), fingerprint="f" * 64, state="running", created_at=self.now - 900
            )
            session.add(row)
            session.commit()
            self.study_id = row.id

    def params(self) -> dict[str, Any]:
        """Searched values somewhere in SPACE."""
        return {
            "optim.matrix_lr": float(np.exp(self.random.uniform(np.log(0.005), np.log(0.1)))),
            "optim.matrix_weight_decay": float(self.random.uniform(0.0, 0.3)),
            "data.batch_tokens": int(self.random.choice([4096, 8192, 16384])),
            "model.num_layers": int(self.random.integers(2, 7)),
        }

    def trial(
        self,
        number: int,
        state: str = "complete",
        *,
        points: int = 30,
        progress: float | None = None,
        params: dict[str, Any] | None = None,
        **columns: Any,
    ) -> int:
        """One run of a trial with its curve, messages and, when complete, its outcome; the run's id."""
        reached = {"complete": 1.0, "pruned": 0.3, "running": 0.55, "failed": 0.4, "diverged": 0.2}
        progress = reached.get(state, 0.5) if progress is None else progress
        searched = params or self.params()
        return self.run("trial", number, state, searched, progress, points, tokens=4_000_000, **columns)

    def run(
        self,
        kind: str,
        number: int,
        state: str,
        params: dict[str, Any],
        progress: float,
        points: int,
        *,
        tokens: int,
        first_step: int = 0,
        said: Sequence[tuple[str, dict[str, Any]]] = (),
        points_are: Sequence[dict[str, Any]] = (),
        **columns: Any,
    ) -> int:
        """One run of either kind; `tokens` is its whole budget.

        Args:
            said: further messages, as (kind, body).
            points_are: rows of points to write in place of those that are made up.
        """
        steps = 500
        quality = abs(np.log(params["optim.matrix_lr"] / 0.03)) + params["optim.matrix_weight_decay"]
        curve = self._curve(points, progress, quality + 0.02 * self.random.standard_normal(), steps, tokens)
        curve = list(points_are) or [point for point in curve if point["step"] > first_step]
        started = self.now - 800 + 20 * (number % 40)
        values = {
            "worker": "worker-1",
            "device": "cpu",
            "device_name": "AMD EPYC",
            "versions": {"python": "3.11", "torch": "2.9.0"},
            "parameters": 1_234_567,
            "started_at": started + 1,
            "ended_at": None if state == "running" else started + 22 * progress,
            "reason": {"pruned": "behind at 30 %", "failed": "died: signal 9", "diverged": "loss is not finite"}.get(
                state, ""
            ),
            "score": curve[-1]["val_bpb"] - 0.001 if state == "complete" and curve else None,
            "score_stderr": 0.0017 if state == "complete" else None,
            "config": TrainConfig().to_dict(),
            **columns,
        }
        with Session(self.engine) as session:
            row = RunRow(
                study_id=self.study_id,
                kind=kind,
                number=number,
                params=params,
                state=state,
                created_at=started,
                last_seq=len(curve) + 1,
                step=int(steps * progress),
                tokens=int(tokens * progress),
                seconds=20.0 * progress,
                wall_seconds=0.0 if state == "running" else 22.0 * progress,
                progress=progress,
                train_loss=next((p["train_loss"] for p in reversed(curve) if p["train_loss"] is not None), None),
                val_bpb=next((p["val_bpb"] for p in reversed(curve) if p["val_bpb"] is not None), None),
                **values,
            )
            session.add(row)
            session.flush()
            run = row.id
            if curve:
                session.execute(insert(PointRow), [{"run_id": run, **point} for point in curve])
            if state == "complete":
                final = curve[-1]["val_bpb"]
                session.add(
                    OutcomeRow(
                        run_id=run, tokens=tokens, step=steps, seconds=20.0, val_loss=final, val_bpb=final - 0.001,
                        val_tokens=65_536, val_bpb_stderr=0.0017,
                    )
                )  # fmt: skip
            session.add_all(self._messages(run, started, state, len(curve)))
            session.add_all(
                MessageRow(run_id=run, seq=len(curve) + 10 + place, at=started + 5 + place, kind=kind, body=body)
                for place, (kind, body) in enumerate(said)
            )
            session.commit()
        return run

    def _curve(self, points: int, progress: float, quality: float, steps: int, tokens: int) -> list[dict[str, Any]]:
        shares = np.linspace(0, progress, points)[1:]
        evals = [share for share in (0.1, 0.2, *RUNGS, 0.45, 0.8, 1.0) if share <= progress + 1e-9]
        marks = sorted([(float(s), False) for s in shares] + [(s, True) for s in evals])
        rows: list[dict[str, Any]] = []
        for seq, (share, is_eval) in enumerate(marks, start=1):
            loss = 2.1 + 0.35 * quality + 3.4 * float(np.exp(-7 * share)) - 0.25 * share
            noise = float(self.random.standard_normal())
            rows.append(
                {
                    "seq": seq,
                    "step": int(steps * share),
                    "tokens": int(tokens * share),
                    "seconds": 20 * share,
                    "progress": share,
                    "fraction": share if is_eval else None,
                    "train_loss": None if is_eval else loss * 1.6 + 0.05 * noise,
                    "lr_factor": None if is_eval else min(1.0, (1 - share) / 0.4),
                    "tokens_per_second": None if is_eval else 200_000 + 4_000 * noise,
                    "val_loss": loss * 1.6 if is_eval else None,
                    "val_bpb": loss + 0.004 * noise if is_eval else None,
                    "val_bpb_stderr": 0.0034 if is_eval else None,
                }
            )
        return rows

    def _messages(self, run: int, started: float, state: str, last: int) -> list[MessageRow]:
        start = {"event": "start", "device": "cpu", "parameters": 1_234_567, "setup_seconds": 0.8, "accumulation": 1}
        start |= {"compiled_graphs": 12, "graph_breaks": 1, "devices": 2}
        rows = [
            MessageRow(run_id=run, seq=0, at=started, kind="start", body=start),
            MessageRow(
                run_id=run, seq=last + 1, at=started + 3, kind="log", body={"event": "log", "text": "a line of stderr"}
            ),
        ]
        if state in ("complete", "pruned", "diverged"):
            reason = "stopped" if state == "pruned" else state
            body = {"event": "end", "reason": reason, "step": 500, "tokens": 4_000_000, "seconds": 20.0}
            rows.append(MessageRow(run_id=run, seq=last + 2, at=started + 22, kind="end", body=body))
        if state == "failed":
            body = {"event": "failure", "reason": "died", "message": "signal 9", "traceback": ""}
            rows.append(MessageRow(run_id=run, seq=last + 2, at=started + 22, kind="failure", body=body))
        return rows

    def promotion(
        self, number: int, trial: int | None, state: str = "running", *, tokens: int = 80_000_000, **plan: Any
    ) -> None:
        """A promotion as `promote` leaves it."""
        with Session(self.engine) as session:
            session.add(
                PromotionRow(
                    study_id=self.study_id, number=number, trial_number=trial, plan={"tokens": tokens, **plan},
                    state=state,
                    created_at=self.now,
                )
            )  # fmt: skip
            session.commit()

    def event(self, verb: str, **detail: Any) -> None:
        """A line of the audit trail."""
        with Session(self.engine) as session:
            session.add(EventRow(study_id=self.study_id, at=self.now, actor="service", verb=verb, detail=detail))
            session.commit()

    def worker(self, name: str) -> None:
        """A worker that said hello."""
        with Session(self.engine) as session:
            session.add(
                WorkerRow(
                    id=name, host="localhost", pid=1, device="cpu", device_name="AMD EPYC", state="busy",
                    first_seen=self.now, last_seen=self.now,
                )
            )  # fmt: skip
            session.commit()

    def advance(self, run: int, **columns: Any) -> None:
        """Change columns of a run, as a delivery does."""
        with self.engine.begin() as connection:
            connection.execute(update(RunRow).where(RunRow.id == run).values(**columns))

    def typical(self) -> None:
        """A study in the middle: 6 complete, 5 pruned, one diverged, one failed and tried again, 2 running."""
        states = ["complete", "complete", "pruned", "failed", "complete", "pruned", "diverged", "complete"]
        states += ["pruned", "pruned", "complete", "pruned", "complete"]
        for number, state in enumerate(states):
            self.trial(number, state)
        self.trial(13, "running")
        self.trial(14, "running", progress=0.15)
        for number, state in enumerate(states):
            self.event("finished", trial=number, state=state)
        self.worker("worker-1")
