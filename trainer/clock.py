"""Training seconds against a budget.  Compile, warm-up, validation and checkpoints are off the clock."""

from __future__ import annotations

import time

import torch

from trainer.config import BudgetConfig
from trainer.device import synchronize


class Clock:
    """Counts steps and the seconds they took; knows how much of the budget is used.

    On an asynchronous device the end of a step is known one step later: `tick` waits for the step before, so
    that the queue never runs dry and seconds are still the device's own.
    """

    def __init__(self, budget: BudgetConfig, batch_tokens: int, device: torch.device) -> None:
        self.step = 0
        self.seconds = 0.0
        self._budget = budget
        self._batch_tokens = batch_tokens
        self._device = device
        self._mark: float | None = None
        self._pending: torch.cuda.Event | None = None
        self._last_step_seconds = 0.0

    @property
    def tokens(self) -> int:
        return self.step * self._batch_tokens

    @property
    def progress(self) -> float:
        """Share of the budget used so far, in [0, 1]."""
        return self._share(self._budget, self.step, self.seconds)

    @property
    def next_progress(self) -> float:
        """Progress at the middle of the coming step: where the schedule is read."""
        return self.next_progress_in(self._budget)

    def next_progress_in(self, budget: BudgetConfig) -> float:
        """`next_progress` in another budget of the same unit."""
        return self._share(budget, self.step + 0.5, self.seconds + 0.5 * self._last_step_seconds)

    def _share(self, budget: BudgetConfig, steps: float, seconds: float) -> float:
        total_steps = budget.steps_of(self._batch_tokens)
        if total_steps is not None:
            return min(1.0, steps / total_steps)
        assert budget.seconds is not None
        return min(1.0, seconds / budget.seconds)

    def branch(self, budget: BudgetConfig) -> Clock:
        """A paused clock at the same step and second, against another budget."""
        twin = Clock(budget, self._batch_tokens, self._device)
        twin.step, twin.reading = self.step, self.reading
        return twin

    @property
    def reading(self) -> tuple[float, float]:
        """Training seconds so far and those of the last step; settable, for a rank that goes by another's clock."""
        return self.seconds, self._last_step_seconds

    @reading.setter
    def reading(self, reading: tuple[float, float]) -> None:
        self.seconds, self._last_step_seconds = reading

    @property
    def exhausted(self) -> bool:
        return self.progress >= 1.0

    def resume(self) -> None:
        """Start counting."""
        assert self._mark is None, "the clock runs already"
        synchronize(self._device)
        self._mark = time.perf_counter()

    def tick(self) -> None:
        """One more optimiser step was issued."""
        if self._device.type == "cuda":
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            done.record()
            if self._pending is not None:
                self._pending.synchronize()
            self._pending = done
        self.step += 1
        self._count()

    def pause(self) -> None:
        """Stop counting once all issued steps are done."""
        synchronize(self._device)
        self._pending = None
        before = self.seconds
        self._count()
        self._mark = None
        # The wait belongs to steps already counted: it must not look like a short step.
        self._last_step_seconds += self.seconds - before if self._device.type == "cuda" else 0.0

    def _count(self) -> None:
        assert self._mark is not None, "the clock is not running"
        now = time.perf_counter()
        self._last_step_seconds = now - self._mark
        self.seconds += self._last_step_seconds
        self._mark = now

    def state(self) -> dict[str, float | int]:
        """For a checkpoint."""
        return {"step": self.step, "seconds": self.seconds}

    def restore(self, state: dict[str, float | int]) -> None:
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
