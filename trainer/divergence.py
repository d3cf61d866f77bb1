"""When a loss has left the numbers that training can come back from."""

from __future__ import annotations

import math

GRACE = 0.1
"""Share of the budget after which a loss above its initial value ends the run."""
STEPS_IN_A_ROW = 3
"""That must lie above it: one batch may be hard, and a short run's tenth is a step or two."""
FALLEN, BACK = 1.0, 0.25
"""Nats below the initial value: a run that was there once and is back this near it has died to a constant output,
whose loss, the logarithm of the vocabulary, lies somewhat below that of random weights."""


class Diverged(Exception):
    """The run's own doing, and a result: NaN, infinity, or a loss that stays where it began, or above."""


class DivergenceWatch:
    """Sees every loss of a run, in order."""

    def __init__(self) -> None:
        self._initial: float | None = None
        self._lowest = math.inf
        self._above = 0

    def see(self, loss: float, step: int, progress: float) -> None:
        """Take in the loss of a step, nats per token.

        Raises:
            Diverged: that is enough.
        """
        if not math.isfinite(loss):
            raise Diverged(f"train_loss is {loss} at step {step}")
        if self._initial is None:
            self._initial = loss
        self._lowest = min(self._lowest, loss)
        ceiling = self._initial - (BACK if self._lowest < self._initial - FALLEN else 0.0)
        self._above = self._above + 1 if progress > GRACE and loss > ceiling else 0
        if self._above >= STEPS_IN_A_ROW:
            where = "above" if loss > self._initial else "back at"
            raise Diverged(
                f"train_loss {loss:.4f} at step {step} ({progress:.0%} of the budget) is {where} "
                f"its initial value {self._initial:.4f}"
                + (f", after {self._lowest:.4f}" if self._lowest < self._initial - FALLEN else "")
            )

    def state(self) -> dict[str, float | int | None]:
        """For a checkpoint."""
        return {"initial": self._initial, "above": self._above, "lowest": self._lowest}

    def restore(self, state: dict[str, float | int | None]) -> None:
        self._initial, self._above = state["initial"], int(state["above"] or 0)
        lowest = state.get("lowest")  # checkpoints of earlier versions lack it
        self._lowest = math.inf if lowest is None else lowest
