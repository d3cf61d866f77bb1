"""What goes into a fit, as columns, and what every fit says of itself.  Shape key: n runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Booleans: TypeAlias = NDArray[np.bool_]

POSITIVE = ("n_params", "tokens", "steps", "batch_tokens", "learning_rate")
MAY_BE_UNSAID = ("steps", "batch_tokens", "learning_rate")
"""Of these the columns that may hold NaN, as laws of loss need none of them."""
MAY_LACK = ("weight_decay", "depth", "step_seconds", "loss_stderr")
"""Columns that may hold NaN: the run did not say."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """A run or cell that a fit left out."""

    row: int
    """Its index in what was handed to the fit: a row of the observations, or the number of the cell."""
    reason: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What every result says of itself."""

    used: int
    """Runs (or cells, or points: whatever was handed in) that the numbers rest on."""
    excluded: tuple[Excluded, ...] = ()
    interval_method: str = "none"
    """How the 95 % intervals were made."""
    not_identified: str | None = None
    """Why there is no number; None where there is one."""


@dataclass(frozen=True, kw_only=True)
class Unidentified(Fit):
    """A law that the data do not hold; `not_identified` says why."""

    not_identified: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observations:
    """One row a run, columns of equal length; build it with `observations`, which checks and completes it."""

    n_params: Array
    """Parameters, counted as `params_convention` says."""
    tokens: Array
    """Tokens trained on."""
    steps: Array
    """Optimiser steps; NaN where unknown."""
    batch_tokens: Array
    """Tokens a step; NaN where unknown."""
    learning_rate: Array
    """Peak rate, in the convention `rate_convention`; NaN where unknown."""
    weight_decay: Array
    """Decoupled decay (per unit of learning rate); NaN where unknown."""
    depth: Array
    """Layers; NaN where unknown."""
    step_seconds: Array
    """Device speed: seconds a step; NaN where unknown."""
    loss: Array
    """Final validation loss in `unit`; may be NaN or infinite where `diverged`."""
    loss_stderr: Array
    """Standard error of `loss` (seed and evaluation noise), same unit; NaN where unknown."""
    diverged: Booleans
    trial: Integers
    seed: Integers
    unit: Literal["nats", "bpb"]
    """Nats a token, or bits a byte.  Exponents do not depend on it; floors and scales do."""
    params_convention: str
    """What n_params counts.  The convention alone moves the exponent of N from .37 to .70."""
    rate_convention: str
    """For Muon: which factor its orthogonal update carries.  Rates of two conventions cannot be compared."""

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, rows: Integers | Booleans) -> Observations:
        """The rows named, in that order."""
        columns: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        taken = {name: value[rows] for name, value in columns.items() if isinstance(value, np.ndarray)}
        return Observations(**{**columns, **taken})

    @property
    def tokens_per_param(self) -> Array:
        return self.tokens / self.n_params

    @property
    def tau(self) -> Array:
        """1 / (rate x decay x steps): how long AdamW's average looks back, in units of the run; infinite without decay.

        Wang & Aitchison 2024 (arXiv:2405.13698).
        """
        with np.errstate(divide="ignore"):
            return 1.0 / (self.learning_rate * self.weight_decay * self.steps)


def observations(
    *,
    n_params: ArrayLike,
    learning_rate: ArrayLike,
    loss: ArrayLike,
    tokens: ArrayLike | None = None,
    steps: ArrayLike | None = None,
    batch_tokens: ArrayLike | None = None,
    weight_decay: ArrayLike = np.nan,
    depth: ArrayLike = np.nan,
    step_seconds: ArrayLike = np.nan,
    loss_stderr: ArrayLike = np.nan,
    diverged: ArrayLike = False,
    trial: Sequence[int] | Integers | None = None,
    seed: ArrayLike = 0,
    unit: Literal["nats", "bpb"] = "nats",
    params_convention: str = "all",
    rate_convention: str = "as given",
) -> Observations:
    """Check columns and complete them: of tokens, steps and batch_tokens two suffice; scalars hold for every row.

    A row whose loss is not finite counts as diverged.

    Raises:
        ValueError: columns of unequal length, none or a value that is not finite and positive where it must be, fewer
            than two of tokens, steps and batch_tokens, or three that contradict each other by more than 2 %.
    """
    rows = np.atleast_1d(np.asarray(loss, dtype=np.float64))
    given = {"n_params": n_params, "tokens": tokens, "steps": steps, "batch_tokens": batch_tokens}
    given |= {"learning_rate": learning_rate, "weight_decay": weight_decay, "depth": depth}
    given |= {"step_seconds": step_seconds, "loss_stderr": loss_stderr}
    columns = {name: _column(name, value, len(rows)) for name, value in given.items() if value is not None}
    _complete(columns)
    lost = np.broadcast_to(np.asarray(diverged, dtype=np.bool_), rows.shape) | ~np.isfinite(rows)
    _check(columns, rows, lost)
    return Observations(
        **columns,
        loss=rows,
        diverged=lost,
        trial=np.arange(len(rows)) if trial is None else np.asarray(trial, dtype=np.int64),
        seed=np.broadcast_to(np.asarray(seed, dtype=np.int64), rows.shape),
        unit=unit,
        params_convention=params_convention,
        rate_convention=rate_convention,
    )


def _column(name: str, value: ArrayLike, length: int) -> Array:
    column = np.asarray(value, dtype=np.float64)
    if column.ndim > 1 or column.size not in (1, length):
        raise ValueError(f"{name} must hold {length} values, one a run, or one for all; got shape {column.shape}")
    return np.broadcast_to(column.reshape(-1) if column.ndim else column, (length,))


def _complete(columns: dict[str, Array]) -> None:
    """Fill in the third of tokens, steps and batch_tokens; refuse three that contradict each other."""
    known = [name for name in ("tokens", "steps", "batch_tokens") if name in columns]
    if len(known) < 2:
        raise ValueError(f"two of tokens, steps and batch_tokens are needed, got {known or 'none'}")
    if len(known) == 3:
        ratio = columns["tokens"] / (columns["steps"] * columns["batch_tokens"])
        wrong = np.flatnonzero(np.abs(ratio - 1) > 0.02)
        if wrong.size:
            raise ValueError(f"tokens must be steps x batch_tokens; row {wrong[0]} is off by x{ratio[wrong[0]]:.3g}")
    columns.setdefault("tokens", columns.get("steps", np.ones(1)) * columns.get("batch_tokens", np.ones(1)))
    columns.setdefault("steps", columns["tokens"] / columns.get("batch_tokens", np.ones(1)))
    columns.setdefault("batch_tokens", columns["tokens"] / columns["steps"])


def _check(columns: dict[str, Array], loss: Array, diverged: Booleans) -> None:
    for name in POSITIVE:
        unsaid = np.isnan(columns[name]) & (name in MAY_BE_UNSAID)
        wrong = np.flatnonzero(~(np.isfinite(columns[name]) & (columns[name] > 0) | unsaid))
        if wrong.size:
            raise ValueError(f"{name} must be finite and positive, got {columns[name][wrong[0]]} in row {wrong[0]}")
    for name in MAY_LACK:
        wrong = np.flatnonzero(columns[name] < 0)
        if wrong.size:
            raise ValueError(f"{name} must not be negative, got {columns[name][wrong[0]]} in row {wrong[0]}")
    wrong = np.flatnonzero(~diverged & ~(loss > 0))
    if wrong.size:
        raise ValueError(f"loss must be positive, got {loss[wrong[0]]} in row {wrong[0]}")


def positive(name: str, values: ArrayLike, fewest: int = 1) -> Array:
    """(n,) values as floats.

    Raises:
        ValueError: not one-dimensional, fewer than `fewest`, or one that is not finite and positive.
    """
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) < fewest:
        raise ValueError(f"{name} must hold at least {fewest} values in one dimension, got shape {column.shape}")
    wrong = np.flatnonzero(~(np.isfinite(column) & (column > 0)))
    if wrong.size:
        raise ValueError(f"{name} must be finite and positive, got {column[wrong[0]]} at {wrong[0]}")
    return column
