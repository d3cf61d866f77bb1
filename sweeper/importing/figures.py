"""Figures of a row: what follows from the others (tokens, steps, parameters, compute), and times.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sweeper.importing.names import number

FLOPS_PER_PARAMETER_AND_TOKEN = 6
"""C = 6 N D (Kaplan et al. 2020, arXiv:2001.08361)."""
MISMATCH = 0.2
"""Relative difference up to which figures that follow from each other may differ: conventions do by as much."""
LATEST = 1e10
"""Unix seconds; what is later are milliseconds, or no time at all."""


def complete(values: Mapping[str, Any], figures: dict[str, float]) -> list[tuple[str, str]]:
    """Fill in what follows: tokens of steps and batch, or of compute and parameters; then parameters, then steps.

    What is stated stays as it is: of three figures that contradict each other the tokens count.

    Args:
        values: hyperparameters by path.
        figures: by role; `tokens`, `steps` and `parameters` are added.

    Returns:
        What contradicts what, by more than MISMATCH: the rule that is broken, and the numbers.
    """
    batch, flops = float(values.get("data.batch_tokens") or 0), figures.get("flops", 0.0)
    steps, stated = figures.get("steps", 0.0), figures.get("tokens", 0.0)
    broken = []
    if batch > 0 and steps > 0:
        if stated > 0 and _apart(stated, batch * steps):
            broken.append(("tokens are steps × data.batch_tokens", f"{stated:.4g} against {batch * steps:.4g}"))
        figures.setdefault("tokens", batch * steps)
    six_n = FLOPS_PER_PARAMETER_AND_TOKEN * figures.get("parameters", 0.0)
    if flops > 0 and six_n > 0:
        tokens = figures.setdefault("tokens", flops / six_n)
        if _apart(flops, six_n * tokens):
            broken.append(("flops are 6 × parameters × tokens", f"{flops:.4g} against {six_n * tokens:.4g}"))
    elif flops > 0 and figures.get("tokens", 0.0) > 0:
        figures["parameters"] = flops / (FLOPS_PER_PARAMETER_AND_TOKEN * figures["tokens"])
    if batch > 0 and "steps" not in figures and figures.get("tokens", 0.0) > 0:
        figures["steps"] = max(1.0, figures["tokens"] / batch)
    return broken


def _apart(one: float, other: float) -> bool:
    return other <= 0 or abs(one / other - 1) > MISMATCH


def seconds(raw: Any) -> float:
    """A number, or what pandas writes: `0 days 00:10:00.5`."""
    text = str(raw or "").strip()
    days, found, clock = text.partition(" days ")
    if not found:
        return number(raw)
    hours, minutes, rest = clock.split(":")
    return 86400 * number(days) + 3600 * number(hours) + 60 * number(minutes) + number(rest)


def moment(raw: Any) -> float | None:
    """Unix seconds of Unix seconds, or of a date as ISO 8601 has it; None where it is neither."""
    text = str(raw or "").strip()
    try:
        at = number(text)
    except ValueError:
        try:
            read = datetime.fromisoformat(text)
        except ValueError:
            return None
        at = (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    return at if 0 < at < LATEST else None
