"""Curves of published schedules, or a replica of them, and how well the annealing law predicts those it did not see."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from sweeper.scaling.annealing import AnnealingForecast, AnnealingLaw, fit_annealing
from sweeper.scaling.annealing_data import Annealed
from sweeper.scaling.rates import Rates, logged
from sweeper.scaling.records import Array

FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")
"""Luo et al.'s own three; the others are predicted."""
WARMUP, PEAK, FINAL = 2160, 3e-4, 3e-5


def errors(curves: Mapping[str, Annealed]) -> Iterator[tuple[str, bool, float, bool]]:
    """(schedule, whether its horizon is three times longer, MAE in nats, whether its end is in the band)."""
    law = fit_annealing([curves[name] for name in FITTED])
    assert isinstance(law, AnnealingLaw), law
    for name, curve in curves.items():
        if name in FITTED:
            continue
        found = law.predict(curve.rates, curve.step_n)
        assert isinstance(found, AnnealingForecast), found
        mae = float(np.abs(found.loss_m - curve.loss_n).mean())
        yield name, name.endswith("_72000"), mae, found.end.low <= float(curve.loss_n[-1]) <= found.end.high


def read(folder: Path) -> dict[str, Annealed]:
    """Curves of step, lr and loss, as released; FITTED must be among them."""
    return {path.stem: _read(path) for path in sorted(folder.glob("*.csv"))}


def _read(path: Path) -> Annealed:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    loss = next(name for name in rows[0] if "loss" in name.lower())
    step, rate, value = (np.array([float(row[name]) for row in rows]) for name in ("step", "lr", loss))
    return Annealed(logged(step, rate), step, value)


def replica(seed: int = 0) -> dict[str, Annealed]:
    """The published schedules with losses by the law at 100M-like values, summed step by step, and seed noise."""
    random = np.random.default_rng(seed)
    found = {}
    for name, rate in _schedules().items():
        step = np.arange(WARMUP + 16, len(rate), 256)
        loss = _law(rate, step) + random.normal(0, 0.0006, len(step)) + random.normal(0, 0.0006)
        found[name] = Annealed(_rates(rate), step.astype(np.float64), loss)
    return found


def _schedules() -> dict[str, Array]:
    step = np.arange(72_001)

    def cosine(last: int) -> Array:
        half = 0.5 * (1 + np.cos(np.pi * (step[: last + 1] - WARMUP) / (last - WARMUP)))
        return np.asarray(FINAL + (PEAK - FINAL) * half)

    fall = np.clip((step[:24_001] - 20_000) / 4000, 0, 1)
    found = {"cosine_24000": cosine(24_000), "cosine_72000": cosine(72_000)}
    found |= {f"constant_{last}": np.full(last + 1, PEAK) for last in (24_000, 72_000)}
    found |= {f"wsdcon_{low}": np.where(step[:16_001] < 8000, PEAK, low * 1e-5) for low in (3, 9, 18)}
    found |= {"wsd_20000_24000": PEAK * (FINAL / PEAK) ** fall, "wsdld_20000_24000": PEAK + (FINAL - PEAK) * fall}
    return {name: np.minimum(rate, PEAK * step[: len(rate)] / WARMUP) for name, rate in found.items()}


def _rates(rate: Array) -> Rates:
    jumps = np.flatnonzero(rate[1:] < 0.7 * rate[:-1]) + 1
    kept = np.unique(np.concatenate([np.arange(0, len(rate), 40), [WARMUP, len(rate) - 1], jumps]))
    steps, rates = kept.astype(np.float64), rate[kept]
    at = np.searchsorted(kept, jumps)
    return Rates(np.insert(steps, at, steps[at]), np.insert(rates, at, rate[jumps - 1]))


def _law(rate: Array, steps: Array) -> Array:
    """The published sum over every step, in units of steps and rates."""
    sums = np.cumsum(rate)
    drops = np.flatnonzero(np.diff(rate[WARMUP:]) < 0) + WARMUP + 1
    falls = rate[drops - 1] - rate[drops]
    loss = []
    for step in steps:
        past = drops <= step
        since = sums[step] - sums[drops[past] - 1]
        gain = falls[past] @ (1 - (0.6 * rate[drops[past]] ** -0.6 * since + 1) ** -0.5)
        loss.append(2.78 + 0.6 * sums[step] ** -0.45 - 520.0 * gain)
    return np.array(loss)
