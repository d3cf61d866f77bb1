"""A study whose trials follow a known law, run through a real service: rate by batch, three budgets from each trial."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from sweeper import control
from sweeper.service import Service
from sweeper.settings import Settings
from tests.sweeper import talk
from trainer import events

NAME = "lawful"
TOKENS = 8_192_000
LADDER = (2_048_000, 4_096_000)
BATCHES = (4096, 8192, 16_384, 32_768)
OFF = (-1.2, -0.7, -0.2, 0.3, 0.8, 1.3)
"""Octaves off the best rate that are tried with every batch."""
DECAY = 0.1
SPEC: dict[str, Any] = {
    **talk.SPEC,
    "name": NAME,
    "trials": len(BATCHES) * len(OFF),
    "space": {
        "optim.matrix_lr": {"log": [0.001, 0.5], "tie": {"optim.scalar_lr": 0.5}},
        "data.batch_tokens": {"choice": list(BATCHES)},
    },
    "budget": {"tokens": TOKENS, "rungs": [], "ladder": list(LADDER)},
    "sampler": {"type": "random", "seed": 1},
    "pruner": {"type": "none"},
    "base": {"optim": {"matrix_weight_decay": DECAY, "adam_weight_decay": 0.02, "beta2": 0.98}},
    "promote": {"tokens": "4x"},
}


def opened(path: Path) -> Service:
    """The service of a database file."""
    return Service.open(Settings(home=path.parent, storage=f"sqlite:///{path}", lease_seconds=60.0))


def best_rate(batch: float, tokens: float) -> float:
    return float(0.02 * (batch / 8192) ** 0.4 * (tokens / TOKENS) ** -0.25)


def loss(batch: float, tokens: float, rate: float) -> float:
    """Bits per byte: at the best rate (1 + B / 16,384) is how many times more tokens a batch needs."""
    reached = tokens / (1 + batch / 16_384)
    off = math.log2(rate / best_rate(batch, tokens))
    return float((1.0 + 0.8 * (reached / 1e6) ** -0.3) * (1 + 0.004 * off**2))


def points(batches: tuple[int, ...] = BATCHES) -> list[dict[str, Any]]:
    middle = (TOKENS * LADDER[0]) ** 0.5
    return [
        {"optim.matrix_lr": best_rate(batch, middle) * 2.0**off, "data.batch_tokens": batch}
        for batch in batches
        for off in OFF
    ]


def sweep(service: Service, batches: tuple[int, ...] = BATCHES, **changes: Any) -> None:
    """Create the study and run every trial of it."""
    tried = points(batches)
    control.create_study(service, SPEC | {"points": tried, "trials": len(tried)} | changes)
    random = np.random.default_rng(5)
    for _ in tried:
        grant = talk.take(service, kind="trial")
        talk.say(service, grant, *run(grant.config, random))


def run(config: dict[str, Any], random: np.random.Generator) -> list[dict[str, Any]]:
    """All that a trial says which follows the law."""
    batch, rate = config["data"]["batch_tokens"], config["optim"]["matrix_lr"]
    said = [talk.start()]
    for tokens in (*map(int, config["ladder"]["budgets"]), TOKENS):
        score = loss(batch, tokens, rate) * (1 + 2e-4 * random.standard_normal())
        said.append(outcome(score, batch, tokens, None if tokens == TOKENS else tokens))
    return [*said[:-1], evaluation(score, batch), said[-1], end(batch)]


def outcome(score: float, batch: int, tokens: int, budget: float | None = None) -> dict[str, Any]:
    step = math.ceil(tokens / batch)
    return events.to_dict(
        events.Outcome(step=step, tokens=step * batch, seconds=tokens / 5e5, val_loss=2 * score, val_bpb=score,
                       val_tokens=100, budget=budget)
    )  # fmt: skip


def evaluation(score: float, batch: int, tokens: int = TOKENS) -> dict[str, Any]:
    step = math.ceil(tokens / batch)
    return events.to_dict(
        events.Eval(step=step, tokens=step * batch, seconds=tokens / 5e5, progress=1.0, fraction=1.0,
                    val_loss=2 * score, val_bpb=score, val_tokens=100, eval_seconds=0.1)
    )  # fmt: skip


def end(batch: int, tokens: int = TOKENS) -> dict[str, Any]:
    step = math.ceil(tokens / batch)
    return events.to_dict(
        events.End(reason="complete", step=step, tokens=step * batch, seconds=tokens / 5e5, wall_seconds=20.0,
                   detail="", peak_memory_bytes=0)
    )  # fmt: skip
