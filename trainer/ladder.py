"""The ladder of budgets: branches of a run that cool down to smaller budgets, each the outcome of a shorter run.

A run with `schedule.warmdown` w trains at a constant rate until 1 - w of its budget, whatever that budget is. So all
budgets share that trunk: for one of b, a branch leaves it at (1 - w) b (or at `export.qat_from` of b, if that comes
first), cools down to b as a run of b would, and says its Outcome; then everything is put back, and the trunk goes on as
if nothing had been.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from trainer import events, snapshot
from trainer.clock import Clock
from trainer.config import BudgetConfig, TrainConfig
from trainer.curve import Curve
from trainer.divergence import Diverged
from trainer.finish import MOST_SILENCE_SECONDS, fields
from trainer.models.base import LanguageModel
from trainer.optim import Optimizers
from trainer.phases import Phases
from trainer.readout import Readout
from trainer.validation import Stopped, Validation
from trainer.weights import Weights

Emit = Callable[[events.Event], None]


class Trunk(Protocol):
    """What a branch is made of: a run, whose clock, mean of the weights and readout are others meanwhile."""

    clock: Clock
    weights: Weights
    readout: Readout
    model: LanguageModel
    optimizers: Optimizers
    phases: Phases
    validation: Validation
    stop_asked: bool

    def step(self) -> None: ...

    def agree(self) -> None: ...


class Ladder:
    """The smaller budgets of a run, and how many of them are done.

    Args:
        config: of the run.
        weights: of the run. Where they are averaged all along, each budget has a mean of its own on the way, as the
            window is a share of the budget.
        device: of the model.
        emit: is given the events.
    """

    def __init__(self, config: TrainConfig, weights: Weights, device: torch.device, emit: Emit) -> None:
        self._config = config
        self._coming = list(config.rungs)
        self._smallest = (*config.rungs, config.budget)[0]
        self._means = [weights.copy() for _ in self._coming if config.optim.average == "ema"]
        self._device = device
        self._emit = emit
        self._branching = False

    def warming(self, clock: Clock) -> float:
        """Progress of the coming step in the budget that warm-ups are a share of: the smallest."""
        return clock.next_progress_in(self._smallest)

    def due(self, clock: Clock) -> bool:
        """Whether the coming step of the trunk is none that a run of the next budget would do."""
        if not self._coming:
            return False
        progress = clock.next_progress_in(self._coming[0])
        cools = 1.0 - progress < self._config.schedule.warmdown  # as schedule.lr_factor has it
        return cools or progress >= self._config.export.qat_from  # at most 1: where that budget ends

    def take_in(self, clock: Clock, lr_factor: float) -> None:
        """Let the weights after a step of the trunk count in the means of the budgets to come.

        Args:
            clock: before it ticks for the step.
            lr_factor: that the step took.
        """
        if self._branching:
            return
        for rung, mean in zip(self._coming, self._means, strict=False):
            mean.take_in(clock.next_progress_in(rung), lr_factor)

    def branch(self, run: Trunk) -> None:
        """Cool down to the next budget and say its Outcome, or a Notice why it has none; the run is as it was, after.

        Args:
            run: its clock is paused, and every loss is read.

        Raises:
            Stopped: the run was asked to stop meanwhile; the budget is still to come.
        """
        rung = self._coming[0]
        trunk = run.clock, run.weights, run.readout
        put_back = snapshot.keep(run.model, run.optimizers, run.phases.batches, self._device)
        run.clock = run.clock.branch(rung)
        run.weights = self._means[0].copy() if self._means else run.weights.copy()
        run.readout = self._readout(run)
        self._branching = True
        try:
            self._emit(self._cooled_down(run, rung))
        except Diverged as error:
            message = f"no outcome for the budget of {_words(rung)}: its branch diverged, {error}"
            self._emit(events.Notice(message=message))
        finally:
            self._branching = False
            run.clock, run.weights, run.readout = trunk
            put_back()
        self._forget()

    def _cooled_down(self, run: Trunk, rung: BudgetConfig) -> events.Outcome:
        began = run.clock.seconds
        run.agree()
        run.clock.resume()
        while not run.clock.exhausted:
            if run.stop_asked:
                raise Stopped
            run.step()
            run.agree()
        run.clock.pause()
        run.readout.read(run.clock)
        with run.weights.in_the_end():
            score = run.validation.score(run.model, run.validation.final)
        return events.Outcome(
            step=run.clock.step,
            tokens=run.clock.tokens,
            seconds=run.clock.seconds,
            **fields(score),
            targets=run.phases.targets,
            budget=rung.amount,
            branch_seconds=run.clock.seconds - began,
        )

    def _readout(self, run: Trunk) -> Readout:
        """Judges losses as the run's own would from here on; they are no part of its curve, and said in a word."""
        heard = time.perf_counter()
        words = _words(self._coming[0])

        def say(event: events.Event) -> None:
            nonlocal heard
            if isinstance(event, events.Step) and time.perf_counter() - heard > MOST_SILENCE_SECONDS:
                heard = time.perf_counter()
                message = f"cooling down to the budget of {words}: step {event.step}, train_loss {event.train_loss:.4f}"
                self._emit(events.Notice(message=message))

        readout = Readout(Curve(self._config.runtime.log_every_seconds), say)
        readout.curve.begin(run.clock)
        readout.divergence.restore(run.readout.divergence.state())
        return readout

    def _forget(self) -> None:
        """The next budget is done."""
        self._coming.pop(0)
        if self._means:
            self._means.pop(0)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        done = len(self._config.rungs) - len(self._coming)
        return {"done": done, "means": [mean.state() for mean in self._means]}

    def restore(self, state: dict[str, Any]) -> None:
        for _ in range(state["done"]):
            self._forget()
        for mean, saved in zip(self._means, state["means"], strict=True):
            mean.restore(saved)


def _words(budget: BudgetConfig) -> str:
    return f"{budget.amount:,g} {budget.unit}"
