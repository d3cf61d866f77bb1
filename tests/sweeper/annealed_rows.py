"""Such runs in a database: six trials that ended before, and a promotion that is under way."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sweeper.run_records import RunPoints
from tests.dashboard.synthetic import Writer
from tests.sweeper import annealed


def rows(points: RunPoints) -> list[dict[str, Any]]:
    names = [field.name for field in dataclasses.fields(points)]
    found = []
    for seq, values in enumerate(zip(*(getattr(points, name) for name in names), strict=True), start=1):
        row = {name: None if np.isnan(value) else float(value) for name, value in zip(names, values, strict=True)}
        whole = {name: int(row[name] or 0) for name in ("step", "tokens")}
        found.append({"seq": seq, "fraction": None, **row, **whole})
    found[-1]["val_bpb"] = found[-1]["val_bpb"] or found[-1]["train_loss"] / 2  # the writer's score is of the last
    return found


def sweep(writer: Writer) -> None:
    for number, trial in enumerate(annealed.trials()):
        said = {"points_are": rows(trial.points), "config": dict(trial.config)}
        params = writer.params() | {"optim.matrix_lr": trial.config["optim"]["matrix_lr"]}
        writer.run(
            "trial", number, "complete", params, 1.0, 0, tokens=int(trial.tokens), **said, ended_at=writer.now - 500
        )


def full_run(writer: Writer, number: int, upto: float, *, raised: float = 0.0, state: str = "running") -> int:
    """A promotion of four times the tokens, its loss raised by a share from 55 % of it on; the run's id."""
    config = annealed.config(0.015)
    points = annealed.points(config, annealed.LONG, upto=upto)
    factor = np.where(points.progress > 0.55, 1 + raised, 1.0)
    points = dataclasses.replace(points, train_loss=points.train_loss * factor)
    writer.promotion(number, 4, state, tokens=int(annealed.LONG))
    said = {"points_are": rows(points), "config": config}
    run = writer.run("promotion", number, state, writer.params(), upto, 0, tokens=int(annealed.LONG), **said)
    writer.advance(run, created_at=writer.now - 100, started_at=writer.now - 100)
    return run
