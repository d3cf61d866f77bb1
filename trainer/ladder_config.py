"""Smaller budgets whose outcomes a run gives on its way.  Standard library only."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from trainer.values import require


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderConfig:
    """Budgets below the run's own: for each, a branch of the run cools down and says what that budget comes to.

    The outcome of such a budget is the one that a run of its own would have from the same seeds: the same data, the
    same rates at every step, the same mean of the weights. Two things are said for the whole ladder, as all its runs
    share one trunk: `schedule.warmup` and `optim.momentum_warmup` are shares of the *smallest* budget. And the trunk is
    looked at for divergence by shares of its own budget.
    """

    budgets: tuple[float, ...] = ()
    """Ascending, in the unit of the run's budget, all below it; empty for none."""

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in itertools.pairwise(self.budgets))
        require(
            ascending and all(budget > 0 for budget in self.budgets),
            f"ladder.budgets must be ascending and positive, got {list(self.budgets)}",
        )
