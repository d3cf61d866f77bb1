"""A promotion of several phases with a law in its losses, as a service would have left it in the database."""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import update

from sweeper.tables import OutcomeRow
from tests.dashboard.synthetic import Writer
from trainer.config import TrainConfig

PHASES: list[dict[str, Any]] = [
    {"name": "pretrain-1", "tokens": 1_500_000_000, "kind": "pretrain", "lr": 1.0, "shape": "constant", "warmup": 0.01},
    {"name": "pretrain-2", "tokens": 1_000_000_000, "kind": "pretrain", "lr": 0.5, "shape": "constant"},
    {"name": "pretrain-3", "tokens": 500_000_000, "kind": "pretrain", "lr": 0.5, "final_lr": 0.05, "shape": "cosine"},
    {"name": "instruct", "tokens": 120_000_000, "kind": "instruct", "lr": 0.1, "windows": "documents", "dropout": 0.05},
]
"""The plan of `planned`."""
CRITERIA: dict[str, Any] = {
    "active_parameters": 27_500_000, "tokens": 3_000_000_000, "hours": 24.0, "reference_val_ppl": 30.0,
}  # fmt: skip
MODEL: dict[str, Any] = {
    "nodes": 27_500_548, "body": 34_847_750, "never_trained": 4_209_666, "embedding": 51_463_168,
    "tied_total": 86_310_918, "active": 27_500_548, "active_definition": "parameters of the graph's nodes",
    "edges": "0>1 1>2 2>3 0>3", "topology_hash": "8f3a1c",
}  # fmt: skip
"""As a helix reports itself."""


def planned(writer: Writer, number: int, state: str = "running", *, progress: float = 0.75, **criteria: Any) -> int:
    """A promotion of 3.12 B tokens in the four PHASES, its loss a power law of its tokens; the run's id."""
    tokens = sum(phase["tokens"] for phase in PHASES)
    config = TrainConfig().to_dict() | {"plan": {"phases": PHASES, "repeat_data": False}}
    config["data"]["batch_tokens"] = 65_536
    config["model"] |= {"vocab_size": 50_257}
    writer.promotion(number, 4, state, tokens=tokens, tokens_per_second=40_000.0, success=CRITERIA | criteria)
    seconds = tokens / 40_000
    points, said, begin = [], [("start", {"event": "start", "setup_seconds": 30.0, "model": MODEL})], 0
    for seq, share in enumerate(np.arange(0.025, progress + 1e-9, 0.025), start=1):
        loss = 2.9 + 1.1 * (share * tokens / 1e8) ** -0.45 + 0.002 * float(writer.random.standard_normal())
        common = {"seq": seq, "step": int(share * tokens / 65_536), "tokens": int(share * tokens)}
        common |= {"seconds": share * seconds, "progress": share, "fraction": share, "val_loss": loss}
        nothing = {"train_loss": None, "lr_factor": None, "tokens_per_second": 40_000.0}
        points.append(common | nothing | {"val_bpb": loss / 3, "val_bpb_stderr": None})
    for index, phase in enumerate(PHASES):
        if begin < progress * tokens:
            body = {"event": "phase", "name": phase["name"], "index": index, "step": begin // 65_536}
            said.append(("phase", body | {"tokens": begin, "seconds": begin / 40_000}))
        begin += phase["tokens"]
    for place in (1, 2):
        body = {"event": "sample", "step": 1000 * place, "tokens": 65_536_000 * place}
        said.append(("sample", body | {"prompt": "Once <b>upon", "text": f" a time, number {place}"}))
    run = writer.run(
        "promotion", number, state, writer.params(), progress, 0, tokens=tokens, said=said, points_are=points,
        config=config, parameters=86_310_918,
    )  # fmt: skip
    began = writer.now - 1.1 * seconds * progress
    if state == "complete":
        with writer.engine.begin() as connection:
            connection.execute(
                update(OutcomeRow).where(OutcomeRow.run_id == run).values(val_loss=points[-1]["val_loss"])
            )
    held = 0.0 if state == "running" else 1.1 * seconds * progress
    writer.advance(run, wall_seconds=held, seconds=seconds * progress, created_at=began, started_at=began)
    return run
