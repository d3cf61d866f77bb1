"""What a study will take, in a line or two, from its budget and from what is known of the device."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from sweeper import display
from sweeper.shape import Shape, configs
from sweeper.study import StudySpec
from sweeper.throughput import Throughput


def lines(spec: StudySpec, trials: int, workers: int, known: Mapping[Shape, Throughput]) -> list[str]:
    """Only what is known; nothing where no trial is left.

    Args:
        trials: still to do.
        known: of the device that the workers have, by shape.
    """
    if trials < 1:
        return []
    shapes = configs(spec)
    measured = {shape: known[shape] for shape in shapes if shape in known}
    setups = [found.setup_seconds for found in measured.values() if found.setup_seconds is not None]
    setup = statistics.median(setups) if setups else 0.0
    each = spec.budget.seconds
    if each is None and measured:
        each = statistics.mean(_trial_tokens(spec, s) / found.tokens_per_second for s, found in measured.items())
    said = [_total(spec, trials, workers, each, setup)]
    if len(measured) > 0:
        said.append(_spread(spec, list(shapes), measured))
    return said


def _total(spec: StudySpec, trials: int, workers: int, each: float | None, setup: float) -> str:
    hands = f"{workers} worker{'s' if workers != 1 else ''}"
    if spec.budget.seconds is not None:
        what = f"{trials} × {display.duration(spec.budget.seconds)} of training on {hands}"
    else:
        unit = spec.budget.unit
        what = f"{trials} × {display.count(getattr(spec.budget, unit))} {unit} on {hands}"
    if each is None:
        return f"forecast: {what}"
    seconds = trials * (each + setup) / min(workers, trials)
    by = f", {setup:.1f} s of set-up a trial included" if setup else ""
    less = "" if spec.pruner.type == "none" else "; trials that are pruned take less"
    more = "; the branches of the ladder come on top" if spec.budget.ladder else ""
    return f"forecast: {what}, about {display.duration(seconds)} and validation{by}{less}{more}"


def _spread(spec: StudySpec, shapes: list[Shape], measured: Mapping[Shape, Throughput]) -> str:
    """From the slowest to the fastest shape that was measured."""
    order = sorted(measured, key=lambda shape: measured[shape].tokens_per_second)
    ends = [order[0], order[-1]] if len(order) > 1 else order
    if spec.budget.seconds is not None:
        told = [f"{display.count(measured[s].tokens_per_second * spec.budget.seconds)} tokens" for s in ends]
        verb = "sees"
    else:
        told = [display.duration(_trial_tokens(spec, s) / measured[s].tokens_per_second) for s in ends]
        verb = "takes"
    which = " to ".join(f"{text} ({shape.words(shapes)})" for text, shape in zip(told, ends, strict=True))
    where = next(iter(measured.values())).device_name
    return f"a trial {verb} {which}, as measured on {where} for {len(measured)} of {len(shapes)} shapes"


def _trial_tokens(spec: StudySpec, shape: Shape) -> float:
    assert spec.budget.seconds is None
    return float(spec.budget.tokens or (spec.budget.steps or 0) * shape.batch_tokens)
