"""Runs whose losses follow a law of annealing that is not the one which foretells them, with known noise."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from sweeper.full_bands import Course
from sweeper.full_forecast import FullForecast, full_forecast
from sweeper.full_rates import rates_of
from sweeper.run_records import RunPoints
from sweeper.scaling.rates import Rates
from sweeper.scaling.records import Array
from trainer.config import TrainConfig

BATCH = 65_536
SHORT, LONG = 30e6, 120e6
"""Tokens of trials, and of full runs."""
NOISE = 0.01
"""Relative, of a training loss."""


def config(rate: float = 0.02, *, warmdown: float = 0.4, **parts: Any) -> dict[str, Any]:
    found = copy.deepcopy(TrainConfig().to_dict())
    found["optim"]["matrix_lr"] = rate
    found["schedule"] |= {"warmup": 0.0, "warmdown": warmdown, "final_lr": 0.0}
    found["data"]["batch_tokens"] = BATCH
    return found | parts


def law(rates: Rates, tokens: Array, rate: float = 0.02, level: float = 0.0) -> Array:
    """The Multi-Power Law's sum over falls; a higher rate starts lower, and has more to gain from its fall."""
    sums, drops = rates.sums(tokens) / 30e6, rates.drops()
    since = np.maximum(sums[:, None] - drops.sum_j / 30e6, 0.0)
    gain = (1 - (1 + 25 * drops.rate_j**-0.5 * since) ** -0.5) @ drops.fall_j if len(drops.fall_j) else 0.0
    high = np.log2(rate / 0.02)
    return np.asarray(2.0 + level + 0.02 * high + 0.55 * sums**-0.4 - 0.2 * (1 + 0.2 * high) * gain)


def points(
    run: dict[str, Any], tokens: float, *, upto: float = 1.0, seed: int = 0, level: float = 0.0, held_out: int = 0
) -> RunPoints:
    """240 training losses over the whole run, and validations at equal shares of it, as far as it has come."""
    random = np.random.default_rng(seed)
    step = np.arange(1, 241) / 240
    share = np.sort(np.concatenate([step, np.arange(1, held_out + 1) / max(held_out, 1) - 1e-6]))
    rates = rates_of(run, tokens)
    assert isinstance(rates, Rates)
    loss = law(rates, share * tokens, run["optim"]["matrix_lr"], level)
    train = np.isin(share, step)
    noisy = loss * np.exp(np.where(train, NOISE, NOISE / 5) * random.standard_normal(len(share)))
    columns = {
        "step": np.round(share * tokens / BATCH),
        "tokens": share * tokens,
        "seconds": share * 100,
        "progress": share,
        "train_loss": np.where(train, noisy, np.nan),
        "val_loss": np.where(train, np.nan, noisy - 0.02),
        "val_bpb": np.where(train, np.nan, noisy / 2),
        "lr_factor": np.full(len(share), np.nan),
        "tokens_per_second": np.full(len(share), np.nan),
        "val_bpb_stderr": np.full(len(share), np.nan),
    }
    kept = share <= upto + 1e-12
    return RunPoints(**{name: column[kept] for name, column in columns.items()})


def course(rate: float = 0.02, tokens: float = SHORT, name: str = "trial 0", **given: Any) -> Course:
    run = config(rate)
    return Course(name=name, config=run, points=points(run, tokens, **given), tokens=tokens)


def trials(seed: int = 100, **given: Any) -> list[Course]:
    """Six, at rates about the full run's, each with a level of its own."""
    random = np.random.default_rng(seed)
    levels = 0.01 * random.standard_normal(6)
    rates = 0.02 * 2.0 ** np.linspace(-1, 1, 6)
    return [course(float(r), seed=seed + k, level=float(levels[k]), **given) for k, r in enumerate(rates)]


def foretold(run: Course, peers: list[Course], left_out: str = "") -> FullForecast:
    return full_forecast(run, peers, left_out, lambda said, columns, make: make())
