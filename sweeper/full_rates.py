"""From a run's config to its learning rate over tokens, and how far one annealing law can hold along it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sweeper.phase_plan import phases_of
from sweeper.promotion_records import Phase
from sweeper.scaling.rates import Rates, trapezoid
from sweeper.scaling.records import Array

COSINE_KNOTS = 33


def rates_of(config: Mapping[str, Any], tokens: float) -> Rates | str:
    """The planned rates as shares of the peak ones, or why they are not known.

    Args:
        config: of the run, as plain values.
        tokens: that the whole run trains; a plan's phases say so themselves.
    """
    phases = phases_of(dict(config), 0, "waiting")
    if phases:
        return Rates(*np.concatenate([_knots(phase) for phase in phases], axis=1))
    schedule = config.get("schedule") or {}
    if "warmdown" not in schedule:
        return "its trainer is a command, whose schedule sweeper does not know"
    names = {"warmup": "warmup", "cooldown": "warmdown", "final": "final_lr"}
    shape = {ours: float(schedule.get(theirs) or 0.0) for ours, theirs in names.items()}
    if shape["warmup"] + shape["cooldown"] > 1:
        return "its warm-up and warm-down overlap"
    return trapezoid(1.0, tokens, **shape)


def _knots(phase: Phase) -> Array:
    """(2, k) tokens and rates."""
    rest = np.linspace(0.0, 1.0, COSINE_KNOTS if phase.shape == "cosine" else 2)
    final = phase.lr if phase.final_lr is None else phase.final_lr
    fallen = (1 - np.cos(np.pi * rest)) / 2 if phase.shape == "cosine" else rest
    warm = phase.begin + phase.warmup * phase.tokens
    knots = np.stack([warm + rest * (phase.end - warm), phase.lr + (final - phase.lr) * fallen])
    return np.insert(knots, 0, [phase.begin, 0.0], axis=1) if phase.warmup else knots


def law_ends(config: Mapping[str, Any]) -> tuple[int | None, str]:
    """Tokens up to which losses are of one law, and why of no more; None where that is the whole run."""
    phases = phases_of(dict(config), 0, "waiting")
    for phase in phases[1:]:
        why = _broken(phases[0], phase)
        if why:
            return phase.begin, f"{phase.name} {why}"
    return None, ""


def _broken(first: Phase, phase: Phase) -> str:
    if phase.optimizer == "reset":
        return "begins with an optimiser reset, which no annealing law describes"
    if phase.kind != "pretrain":
        return f"is of kind {phase.kind}: another loss"
    if (phase.data, phase.split, phase.windows) != (first.data, first.split, first.windows):
        return "trains on other data"
    if phase.dropout != first.dropout:
        return "has another dropout, which moves the loss by itself"
    return ""


def warm_up_ends(config: Mapping[str, Any], tokens: float) -> float:
    """Tokens of the first warm-up."""
    phases = phases_of(dict(config), 0, "waiting")
    if phases:
        return phases[0].warmup * phases[0].tokens
    return float((config.get("schedule") or {}).get("warmup") or 0.0) * tokens


def first_fall(rates: Rates) -> float | None:
    """Tokens at which the rate first falls; None where it never does."""
    falls = np.flatnonzero(np.diff(rates.rate_k) < 0)
    return float(rates.step_k[falls[0]]) if len(falls) else None
