"""When a loss has left the numbers that training can come back from."""

from __future__ import annotations

import math

GRACE = 0.1
"""Share of the budget after which a loss above its initial value ends the run."""
STEPS_IN_A_ROW = 3
"""That must lie above it: one batch may be hard, and a short run's tenth is a step or two."""


class Diverged(Exception):
    """The run's own doing, and a result: NaN, infinity, or a loss that stays above where it began."""


class DivergenceWatch:
    """Sees every loss of a run, in order."""

    def __init__(self) -> None:
        self._initial: float | None = None
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
        self._above = self._above + 1 if progress > GRACE and loss > self._initial else 0
        if self._above >= STEPS_IN_A_ROW:
            raise Diverged(
                f"train_loss {loss:.4f} at step {step} ({progress:.0%} of the budget) is above "
                f"its initial value {self._initial:.4f}"
            )

    def state(self) -> dict[str, float | int | None]:
        """For a checkpoint."""
        return {"initial": self._initial, "above": self._above}

    def restore(self, state: dict[str, float | int | None]) -> None:
        self._initial, self._above = state["initial"], int(state["above"] or 0)
