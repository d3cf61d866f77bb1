"""Training seconds against a budget.  Compile, warm-up, validation and checkpoints are off the clock."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass

import torch

from trainer.config import BudgetConfig
from trainer.device import synchronize

AHEAD_SECONDS = 0.1
"""Work that the host may issue before the device has done it: what it may be held up for, at no cost to the run."""
MOST_AHEAD = 4
"""Steps; a queue of kernels holds no more of them."""


@dataclass(frozen=True)
class Moment:
    """The end of a step that the device has done."""

    step: int
    tokens: int
    seconds: float
    progress: float


class Clock:
    """Counts steps and the seconds they took; knows how much of the budget is used.

    On an asynchronous device steps are issued ahead, so that neither a slow host nor a busy one lets the queue run
    dry: `tick` waits for an earlier step, seconds are those of the device, and what is under way counts with the mean
    of a step. The last steps of a budget are waited for one by one: its end is measured.

    All that decides comes of `reading` and of counts, so that ranks that go by one reading decide alike.
    """

    def __init__(self, budget: BudgetConfig, batch_tokens: int, device: torch.device) -> None:
        self.step = 0
        self.seconds = 0.0
        self._budget = budget
        self._batch_tokens = batch_tokens
        self._device = device
        self._mark: float | None = None
        self._under_way: deque[torch.cuda.Event] = deque()
        self._step_seconds = 0.0
        self._since = 0, 0.0
        """Steps and seconds when it last began to count."""

    @property
    def tokens(self) -> int:
        return self.step * self._batch_tokens

    @property
    def progress(self) -> float:
        """Share of the budget used once all issued steps are done, in [0, 1]."""
        return self._share(self._budget, self.step, self._seconds_after(0))

    @property
    def done(self) -> Moment:
        """The latest step that is known to be done; all of them while the clock is paused."""
        step = self.step - len(self._under_way)
        return Moment(step, step * self._batch_tokens, self.seconds, self._share(self._budget, step, self.seconds))

    @property
    def next_progress(self) -> float:
        """Progress at the middle of the coming step: where the schedule is read."""
        return self.next_progress_in(self._budget)

    def next_progress_in(self, budget: BudgetConfig) -> float:
        """`next_progress` in another budget of the same unit."""
        return self._share(budget, self.step + 0.5, self._seconds_after(0.5))

    def _seconds_after(self, steps: float) -> float:
        return self.seconds + (len(self._under_way) + steps) * self._step_seconds

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
        """Training seconds so far and the mean of a step; settable, for a rank that goes by another's clock."""
        return self.seconds, self._step_seconds

    @reading.setter
    def reading(self, reading: tuple[float, float]) -> None:
        self.seconds, self._step_seconds = reading

    @property
    def exhausted(self) -> bool:
        """Whether the steps that are done have used the budget."""
        return self.done.progress >= 1.0

    def resume(self) -> None:
        """Start counting."""
        assert self._mark is None, "the clock runs already"
        synchronize(self._device)
        self._since = self.step, self.seconds
        self._mark = time.perf_counter()

    def tick(self) -> None:
        """One more optimiser step was issued."""
        ahead = self._ahead()
        self.step += 1
        if self._device.type == "cuda":
            issued = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            issued.record()
            self._under_way.append(issued)
            while len(self._under_way) > ahead:
                self._under_way.popleft().synchronize()
        self._count()

    def pause(self) -> None:
        """Stop counting once all issued steps are done."""
        synchronize(self._device)
        self._under_way.clear()
        self._count()
        self._mark = None

    def _ahead(self) -> int:
        """How many steps may be under way once another is issued."""
        if self._share(self._budget, self.step + 1, self._seconds_after(1)) >= 1.0:
            return 0
        return min(MOST_AHEAD, math.ceil(AHEAD_SECONDS / self._step_seconds)) if self._step_seconds else 1

    def _count(self) -> None:
        assert self._mark is not None, "the clock is not running"
        now = time.perf_counter()
        self.seconds += now - self._mark
        self._mark = now
        steps, seconds = self._since
        if self.done.step > steps:
            self._step_seconds = (self.seconds - seconds) / (self.done.step - steps)

    def state(self) -> dict[str, float | int]:
        """For a checkpoint."""
        return {"step": self.step, "seconds": self.seconds}

    def restore(self, state: dict[str, float | int]) -> None:
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
