"""How fast this machine's device trains the shapes of a study: a real trainer, a few seconds a shape."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper import data
from sweeper.errors import SweeperError
from sweeper.launch import TrainerProcess
from sweeper.shape import Shape, configs
from sweeper.study import StudySpec
from sweeper.throughput import Throughput
from trainer import events

MOST_SHAPES = 32
"""Of a study that has more, evenly chosen ones are measured."""
VAL_TOKENS = 16_384
"""The score of such a run is of no use, so little is spent on it."""
RATES = ("matrix_lr", "scalar_lr", "embed_lr", "head_lr")
LOW_RATE = 1e-3
"""Rates decide no speed, and a run that diverges ends early."""
HANG_SECONDS = 600.0
"""Compilation is silent, and a large shape compiles for long."""
LISTEN_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmeasured:
    """A shape that did not run."""

    shape: Shape
    problem: str


def plan(spec: StudySpec, seconds: float, home: Path, device: str) -> dict[Shape, dict[str, Any]]:
    """The config to run for each shape; the study's data are prepared where they are not yet.

    Raises:
        SweeperError: the data cannot be had, or the study has a command in place of the trainer.
    """
    if spec.trainer is not None:
        raise SweeperError(f"study {spec.name} has a command of its own; bench measures sweeper's trainer")
    path = data.ensure(spec.data.name, spec.data.tokenizer, home)
    every = list(configs(spec).items())
    if len(every) > MOST_SHAPES:
        every = [every[round(place * (len(every) - 1) / (MOST_SHAPES - 1))] for place in range(MOST_SHAPES)]
    return {shape: _short(config, seconds, path, device) for shape, config in every}


def _short(config: Mapping[str, Any], seconds: float, path: Path, device: str) -> dict[str, Any]:
    runtime = dict(config["runtime"])
    if device in ("cpu", "mps"):
        runtime["device"] = device
    val_tokens = max(VAL_TOKENS, config["data"]["seq_len"])
    return {
        **config,
        "budget": {"seconds": seconds, "tokens": None, "steps": None},
        "ladder": {},
        "eval": {"fractions": [], "val_tokens": val_tokens, "final_val_tokens": val_tokens},
        "data": {**config["data"], "path": str(path)},
        "export": {},  # packing an artifact is no part of the speed
        "optim": {**config["optim"], **dict.fromkeys(RATES, LOW_RATE)},
        "runtime": runtime,
    }


def measure(planned: Mapping[Shape, dict[str, Any]], device: str) -> Generator[Throughput | Unmeasured]:
    """Run one shape after another in one trainer process, and say of each what came of it.

    Raises:
        OSError: the trainer's command cannot be started.
    """
    trainer = TrainerProcess(device)
    try:
        for shape, config in planned.items():
            trainer.run(config, HANG_SECONDS)
            yield _outcome(shape, _said(trainer))
        trainer.close()
    finally:
        trainer.kill()


def _said(trainer: TrainerProcess) -> list[events.Event]:
    said = []
    while trainer.busy:
        event = trainer.next_event(LISTEN_SECONDS)
        if event is not None and event["event"] != "log":
            said.append(events.from_dict(event))
    return said


def _outcome(shape: Shape, said: list[events.Event]) -> Throughput | Unmeasured:
    start = next((event for event in said if isinstance(event, events.Start)), None)
    last = said[-1]
    if isinstance(last, events.Failure):
        return Unmeasured(shape=shape, problem=f"{last.reason}: {last.message}")
    assert isinstance(last, events.End) and start is not None, "a run starts, and ends in End or Failure"
    if last.seconds <= 0 or not last.step:
        return Unmeasured(shape=shape, problem=f"it made no step ({last.reason} {last.detail})".strip())
    return Throughput(
        device_name=start.device_name[:255],
        devices=start.devices,
        shape=shape,
        tokens_per_second=last.tokens / last.seconds,
        seconds=last.seconds,
        setup_seconds=start.setup_seconds,
        peak_memory_bytes=last.peak_memory_bytes,
        source="bench",
        measured_at=time.time(),
    )
