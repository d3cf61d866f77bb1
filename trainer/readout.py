"""Losses of the steps that were issued: read once the device has them, judged, and said."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from torch import Tensor

from trainer import device, events
from trainer.clock import Clock
from trainer.curve import Curve
from trainer.divergence import DivergenceWatch


class Readout:
    """Takes in the loss of every step, in order, and reads it without draining the device's queue.

    Args:
        curve: which of the steps are said.
        emit: is given the Step events.
    """

    def __init__(self, curve: Curve, emit: Callable[[events.Event], None]) -> None:
        self.curve = curve
        self.divergence = DivergenceWatch()
        self._emit = emit
        self._unread: deque[tuple[Tensor, int, float, float]] = deque()

    def add(self, loss: Tensor, *, step: int, progress: float, lr_factor: float) -> None:
        """Take in the loss of a step before the clock ticks for it, so that its tick can vouch for the copy.

        Args:
            loss: a scalar on the device.
            step: its number.
            progress: that the step was scheduled at, the same on every rank.
            lr_factor: that it took.
        """
        self._unread.append((device.start_read(loss), step, progress, lr_factor))

    def read(self, clock: Clock) -> None:
        """Judge the losses of all steps that are done, and say the latest if it is due.

        Raises:
            Diverged: one of them says so.
        """
        done = clock.done
        while self._unread and self._unread[0][1] <= done.step:
            tensor, step, progress, lr_factor = self._unread.popleft()
            loss = tensor.item()
            self.divergence.see(loss, step, progress)
            if step == done.step and (rate := self.curve.due(clock)) is not None:
                self._emit(
                    events.Step(
                        step=step,
                        tokens=done.tokens,
                        seconds=done.seconds,
                        progress=done.progress,
                        train_loss=loss,
                        lr_factor=lr_factor,
                        tokens_per_second=rate,
                    )
                )
