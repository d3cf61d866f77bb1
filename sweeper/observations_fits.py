"""All fits of one study, each made when it is first asked for.  What a figure or a table says comes from here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from sweeper.observations import Bridged
from sweeper.observations_cells import TERMS, Cell, cells_of
from sweeper.observations_facts import RunFacts
from sweeper.observations_kept import DRAWS, Kept
from sweeper.observations_switches import Switches
from sweeper.records import Curves
from sweeper.scaling import priors
from sweeper.scaling.budgets import Frontier, fit_iso_budget
from sweeper.scaling.decay import TauCollapse, fit_tau_collapse, fit_tau_law
from sweeper.scaling.grouping import best_of_cells, cells, cluster
from sweeper.scaling.loss_forms import Form, choose
from sweeper.scaling.loss_law import LossLaw
from sweeper.scaling.optimum import Optimum, fit_optimum
from sweeper.scaling.power_law import PowerLaw, law_of_optima
from sweeper.scaling.records import Array, Excluded, Integers, Unidentified
from sweeper.scaling.step_time import StepTime, fit_step_time
from sweeper.scores import BITS_PER_BYTE, ScoreUnit

STARTS = 16
MOST_TAU_CELLS = 16
LOSS_SIZES = ("n_params", "steps", "batch_tokens", "tokens")
TIME_TOLERANCE = 0.1
FLOPS_TOLERANCE = 0.1

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudyFacts:
    """What is known of a study beside its rows."""

    name: str
    switches: Switches
    judge: str
    timed: bool
    """Whether its budget is seconds."""
    rungs: tuple[float, ...]
    searched: tuple[str, ...]
    seq_len: int
    trials: tuple[RunFacts, ...]
    promotions: tuple[RunFacts, ...]
    unit: ScoreUnit = BITS_PER_BYTE
    """Of all scores."""
    foreign: bool = False
    """Whether the runs were made elsewhere: what is missing is to be imported, as sweeper's trainer cannot run more."""
    full_run: tuple[str, ...] = ("20x",)
    """Lengths of the full run's phases, as the study file writes them."""


class Fits:
    """Every fit of one study under one set of switches; safe to share between threads."""

    def __init__(
        self,
        trials: Bridged,
        promotions: Bridged,
        study: StudyFacts,
        curves: Callable[[], Curves],
        kept: Kept | None = None,
    ) -> None:
        self._kept = kept or Kept()
        self.trials = trials
        self.promotions = promotions
        self.study = study
        self._read_curves = curves
        self.lock = threading.RLock()
        """Held by a thread while it draws on the fits, so that none is made twice at once."""
        self._made: dict[Callable[[Fits], Any], Any] = {}

    def get(self, made: Callable[[Fits], T]) -> T:
        """What `made` gives of these fits, computed once; `made` is a function of a module, not a closure."""
        with self.lock:
            if made not in self._made:
                self._made[made] = made(self)
            found: T = self._made[made]
            return found

    @cached_property
    def curves(self) -> Curves:
        """Streamed scores of all trials."""
        return self._read_curves()

    def states(self, name: str) -> bool:
        """Whether the rows have this column of the observations; of rate and batch all do, or none does."""
        return not len(self.trials.runs) or bool(np.isfinite(getattr(self.trials.runs, name)).any())

    @cached_property
    def groups(self) -> list[Integers]:
        """Rows of each cell: equal parameters, horizon, batch."""
        return cells(self.trials.runs)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells in which the rate varies, with their optimum or why there is none."""
        return cells_of(self.trials.runs, self.groups, self._kept)

    @cached_property
    def rate_law(self) -> PowerLaw | Unidentified:
        """Of the best rate on parameters, batch (where the runs state it) and tokens."""
        sizes = {name: [getattr(cell, name) for cell in self.cells] for name in TERMS if self.states(name)}
        return law_of_optima(
            [cell.optimum for cell in self.cells], sizes, "learning_rate", beliefs=priors.RATE, draws=DRAWS
        )

    @cached_property
    def tau_collapse(self) -> TauCollapse:
        if not len(self.trials.runs):
            return TauCollapse(used=0, not_identified="no run has a score yet")
        return fit_tau_collapse(self.trials.runs, self.tau_groups, draws=DRAWS // 2)

    @cached_property
    def tau_groups(self) -> list[Integers]:
        """The cells with most runs: one bowl over all of hundreds would take a minute, and say no more."""
        return sorted(self.groups, key=len, reverse=True)[:MOST_TAU_CELLS]

    @cached_property
    def tau_law(self) -> PowerLaw:
        """Of the best tau on tokens per parameter; the prior where no cell knows its tau."""
        known = [cell for cell in self.cells if cell.joint]
        return fit_tau_law([cell.optimum for cell in known], [c.tokens / c.n_params for c in known] or [20.0])

    @cached_property
    def best_rows(self) -> Integers:
        """The best row of each cell."""
        return best_of_cells(self.trials.runs, self.groups)

    @cached_property
    def loss_tries(self) -> tuple[tuple[Form, LossLaw | Unidentified], ...]:
        """The forms of loss law tried: the one that the runs hold comes last, the others say why not."""
        runs, rows = self.trials.runs, self.best_rows
        if not len(rows):
            return ((("tokens",), Unidentified(used=0, not_identified="no run has a score yet")),)
        loss, columns = runs.loss[rows], {name: getattr(runs, name)[rows] for name in LOSS_SIZES}
        return self._kept.get(
            "loss law", (loss, *columns.values()), lambda: choose(loss, columns, starts=STARTS, draws=DRAWS).tries
        )

    @cached_property
    def loss_law(self) -> LossLaw | None:
        found = self.loss_tries[-1][1]
        return found if isinstance(found, LossLaw) else None

    @cached_property
    def batch_optima(self) -> tuple[tuple[str, float, Integers, Optimum], ...]:
        """Best batch at equal parameters and equal tokens, or equal seconds: (`tokens` or `seconds`, which, rows,
        optimum), of the best run of each cell."""
        runs, seconds = self.trials.runs, self.trials.seconds
        rows = self.best_rows
        found: list[tuple[str, float, Integers, Optimum]] = []
        for kind, column, tolerance in (("tokens", runs.tokens, 0.05), ("seconds", seconds, TIME_TOLERANCE)):
            usable = rows[np.isfinite(column[rows])]
            keys = np.stack([cluster(runs.n_params[usable], 0.05), cluster(column[usable], tolerance)], axis=1)
            for key in np.unique(keys, axis=0):
                members = usable[(keys == key).all(axis=1)]
                if len(np.unique(np.round(np.log2(runs.batch_tokens[members]), 2))) < 2:
                    continue
                members = self._best_of_each_batch(members)
                optimum = fit_optimum(runs.take(members), ("batch_tokens",), draws=DRAWS)
                found.append((kind, float(np.median(column[members])), members, optimum))
        return tuple(found)

    def _best_of_each_batch(self, rows: Integers) -> Integers:
        """Batch by batch the lowest loss: cells that a tolerance has split are one here."""
        runs = self.trials.runs
        member = cluster(runs.batch_tokens[rows], 0.05)
        return np.array([rows[member == k][np.argmin(runs.loss[rows[member == k]])] for k in range(member.max() + 1)])

    @cached_property
    def batch_law(self) -> PowerLaw | None:
        """Of the best batch on tokens, from vertices at equal tokens; None without one."""
        at_tokens = [(tokens, optimum) for kind, tokens, _, optimum in self.batch_optima if kind == "tokens"]
        if not any(optimum.at for _, optimum in at_tokens):
            return None
        law = law_of_optima(
            [optimum for _, optimum in at_tokens],
            {"tokens": [tokens for tokens, _ in at_tokens]},
            "batch_tokens",
            beliefs=priors.BATCH,
            draws=DRAWS,
        )
        return law if isinstance(law, PowerLaw) else None

    @cached_property
    def budget_rows(self) -> tuple[str, Integers, Array]:
        """Unit of the budget (`seconds` or `FLOPs`), best row of each size at each budget, the budget of each."""
        runs = self.trials.runs
        mixed = self.study.foreign and len(set(self.trials.devices)) > 1  # seconds of two devices are no one budget
        unit = "seconds" if self.study.timed and not mixed else "FLOPs"
        costs = self.trials.seconds if unit == "seconds" else self.trials.flops
        rows = self.best_rows[np.isfinite(costs[self.best_rows])] if len(runs) else self.best_rows
        if not len(rows):
            return unit, rows, costs[rows]
        keys = np.stack([cluster(runs.n_params[rows], 0.02), cluster(costs[rows], FLOPS_TOLERANCE)], axis=1)
        best = [min(rows[(keys == k).all(axis=1)], key=lambda r: runs.loss[r]) for k in np.unique(keys, axis=0)]
        kept = np.array(best, dtype=np.int64)
        return unit, kept, costs[kept]

    @cached_property
    def frontier(self) -> Frontier:
        _, rows, costs = self.budget_rows
        if not len(rows):
            return Frontier(used=0, not_identified="no run has a score yet")
        runs = self.trials.runs
        return fit_iso_budget(runs.n_params[rows], runs.loss[rows], costs, draws=DRAWS)

    @cached_property
    def step_times(self) -> dict[str, tuple[Integers, StepTime | Unidentified]]:
        """For each device the rows that were run on it and the law of its seconds a step."""
        runs = self.trials.runs
        usable = np.isfinite(runs.step_seconds) & np.isfinite(runs.depth)
        found: dict[str, tuple[Integers, StepTime | Unidentified]] = {}
        for device in sorted(set(self.trials.devices)):
            rows = np.flatnonzero(usable & np.array([name == device for name in self.trials.devices]))
            if len(rows):
                law = fit_step_time(runs.depth[rows], runs.batch_tokens[rows], runs.step_seconds[rows], draws=100)
                found[device or "unnamed device"] = (rows, law)
        return found

    @cached_property
    def stable_rate(self) -> float | None:
        """Largest rate that did not diverge at the longest horizon; None where none diverged there."""
        runs = self.trials.runs
        if not len(runs):
            return None
        longest = runs.tokens >= runs.tokens.max() / 1.05
        if not (runs.diverged & longest).any() or not (~runs.diverged & longest).any():
            return None
        return float(runs.learning_rate[longest & ~runs.diverged].max())

    @property
    def censored(self) -> int:
        """Cells whose optimum is at an edge of what was tried."""
        return sum(bool(cell.optimum.bounds) for cell in self.cells)


def reasons(excluded: tuple[Excluded, ...]) -> list[tuple[str, int]]:
    """Why rows were left out, and how many for each reason, the commonest first."""
    counted: dict[str, int] = {}
    for one in excluded:
        counted[one.reason] = counted.get(one.reason, 0) + 1
    return sorted(counted.items(), key=lambda pair: -pair[1])
