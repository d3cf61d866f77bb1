"""Which loss law the runs hold: forms judged by the runs that they leave out.  Shape key: n runs, f folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from sweeper.scaling import power_sum
from sweeper.scaling.grouping import cluster
from sweeper.scaling.loss_law import DRAWS, NARROWEST, ROUNDING, LossLaw, fit_loss_law, too_little
from sweeper.scaling.records import Array, Unidentified

Form: TypeAlias = tuple[str, ...]

BATCH = "batch_tokens"
SIZE = "n_params"
FOLDS = 40
"""Runs are left out one by one; of more runs than this several at once."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The law that was chosen and every other form with the reason why it is not the one."""

    tries: tuple[tuple[Form, LossLaw | Unidentified], ...]
    """The chosen law is the last; where the runs hold none, the form that asks least of them is the first."""

    @property
    def law(self) -> LossLaw | None:
        found = self.tries[-1][1]
        return found if isinstance(found, LossLaw) else None


def choose(loss_n: Array, columns: Mapping[str, Array], starts: int = power_sum.STARTS, draws: int = DRAWS) -> Choice:
    """The simplest form whose error on runs left out is within a standard error of the least (Breiman et al. 1984).

    Forms are those of parameters, where they vary, with steps and batch, with tokens or with steps.  Where batches vary
    but hold no law (two of them, say), the form without takes the best batch of each model and horizon; where models
    hardly differ, the best model.  Runs of far different models are never mixed.

    Args:
        loss_n: losses of runs tuned well enough: the best of each cell.
        columns: n_params, tokens, steps and batch_tokens of each; the last two NaN where runs do not state a batch.
    """
    data = _Data(loss_n, dict(columns), starts)
    if data.varies(SIZE) and columns[SIZE].max() < NARROWEST * columns[SIZE].min():
        data = data.best("model", ("tokens", BATCH))
    sized: Form = (SIZE,) if data.varies(SIZE) and "model" not in data.dropped else ()
    with_batch, by_tokens, by_steps = (*sized, "steps", BATCH), (*sized, "tokens"), (*sized, "steps")
    tried = {with_batch: data.fit(with_batch)} if np.isfinite(columns[BATCH]).all() else {}
    if data.varies(BATCH) and data.enough(with_batch):
        tried |= {form: data.fit(form) for form in (by_tokens, by_steps)}
    if not any(isinstance(one, LossLaw) for one in tried.values()):
        data = data.best("batch", (*sized, "tokens")) if data.varies(BATCH) else data
        tried[by_tokens] = data.fit(by_tokens)
    laws = {form: one for form, one in tried.items() if isinstance(one, LossLaw)}
    if not laws:
        return Choice(tries=tuple(reversed(tried.items())))
    errors = {form: _left_out_errors(law, data.loss_n) for form, law in laws.items()}
    chosen = _simplest(errors)
    others = [(f, _lost(one, errors, f, chosen)) for f, one in tried.items() if f != chosen]
    return Choice(tries=(*others, (chosen, data.fit(chosen, draws))))


@dataclass(frozen=True)
class _Data:
    loss_n: Array
    columns: dict[str, Array]
    starts: int
    dropped: tuple[str, ...] = ()
    """What is not in the law although it varies: the best of it is taken."""

    def varies(self, name: str) -> bool:
        column = self.columns[name]
        return bool(column.max() > (1 + ROUNDING) * column.min())

    def enough(self, form: Form) -> bool:
        """Whether runs suffice for a fit; if then there is none, they say that a size does not matter."""
        return too_little({name: self.columns[name] for name in form}) is None

    def fit(self, form: Form, draws: int = 1) -> LossLaw | Unidentified:
        sizes = {name: self.columns[name] for name in form}
        found = fit_loss_law(self.loss_n, sizes, starts=self.starts, draws=draws)
        return replace(found, basis=self._basis()) if isinstance(found, LossLaw) and self.dropped else found

    def best(self, what: str, by: Form) -> _Data:
        """Of each cell of equal sizes `by` the run of least loss."""
        keys = np.stack([cluster(self.columns[name], ROUNDING) for name in by], axis=1)
        _, member = np.unique(keys, axis=0, return_inverse=True)
        cells = [np.flatnonzero(member == number) for number in range(member.max() + 1)]
        rows = np.array([cell[np.argmin(self.loss_n[cell])] for cell in cells], dtype=np.int64)
        kept = {name: column[rows] for name, column in self.columns.items()}
        return replace(self, loss_n=self.loss_n[rows], columns=kept, dropped=(*self.dropped, what))

    def _basis(self) -> str:
        varying = {"model": self.varies(SIZE), "horizon": True, "batch": self.varies(BATCH)}
        cell = [what for what, varies in varying.items() if varies and what not in self.dropped]
        return f"of the best {' and '.join(self.dropped)} of each {' and '.join(cell)}"


def _left_out_errors(law: LossLaw, loss_n: Array) -> Array:
    """(n,) absolute errors of log loss, of each run by the law that was fitted without it."""
    n, x, y = len(loss_n), law.x_nk, np.log(loss_n)
    fold = np.random.default_rng(n).permutation(n) % min(n, FOLDS)
    weights = (fold != np.arange(fold.max() + 1)[:, None]).astype(np.float64)
    valley = power_sum.along_valley(law.theta_p, x, y)
    refitted = power_sum.refit(power_sum.nearest(valley, x, y, weights), x, y, weights)
    predicted, _ = power_sum.log_prediction(refitted, x)
    return np.abs(predicted[fold, np.arange(n)] - y)


def _simplest(errors: Mapping[Form, Array]) -> Form:
    least = errors[min(errors, key=lambda form: float(errors[form].mean()))]
    near = [form for form, one in errors.items() if (one - least).mean() <= (one - least).std() / np.sqrt(len(one))]
    return min(near, key=lambda form: (len(form), float(errors[form].mean())))


def _lost(one: LossLaw | Unidentified, errors: Mapping[Form, Array], form: Form, chosen: Form) -> Unidentified:
    if isinstance(one, Unidentified):
        return one
    here, there = (float(np.expm1(errors[which].mean())) for which in (form, chosen))
    better = f"the law of {', '.join(chosen)}, simpler or better, to {there:.2%}"
    reason = f"it foretells runs left out to {here:.2%}; {better}"
    return Unidentified(used=one.used, not_identified=reason)
