"""Which weights are trained, which a training pass sees, and which are scored in the end.

Trained are always the full float32 ones: rungs score these, checkpoints hold these.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainer import quantize
from trainer.config import TrainConfig
from trainer.export_config import forms


class Weights:
    """The parameters of a model in training, their mean where one is asked for, and their rounded values.

    Args:
        model: whose parameters are trained; all of this happens outside its graphs, so that a compiled model sees
            new values and no new code.
        config: of the run: `optim.average`, `schedule` and `export` count here.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        named: dict[str, Tensor] = dict(model.named_parameters())
        self._trained = list(named.values())
        self._optim, self._schedule, self._export = config.optim, config.schedule, config.export
        self._mean = [torch.zeros_like(weight) for weight in self._trained if self._optim.average != "off"]
        self._count = 0
        self._last = 0.0
        chosen = forms({name: tuple(weight.shape) for name, weight in named.items()}, self._export)
        rounded = [name for name in named if chosen[name] in quantize.LARGEST and self._export.qat_from < 1]
        self._rounded = [named[name] for name in rounded]
        self._forms = [chosen[name] for name in rounded]
        self._kept = [torch.empty_like(weight) for weight in self._rounded]  # now: later, memory may be short

    def in_training(self, progress: float) -> AbstractContextManager[None]:
        """For a forward and backward pass at `progress`: from `export.qat_from` on the parameters hold what they would
        come back as from the artifact, and the full ones again after the block, for the gradients found there.

        This is the straight-through estimator, with the rounding outside the graphs: nothing is compiled for it, and
        no compiler can leave it out.
        """
        if not self._rounded or progress < self._export.qat_from:
            return nullcontext()
        with torch.no_grad():
            values = quantize.round_trip(self._rounded, self._forms, self._export)
        return holding(self._rounded, values, self._kept)

    @torch.no_grad()
    def take_in(self, progress: float, lr_factor: float) -> None:
        """Let the weights after a step count in the mean, if they should.

        Args:
            progress: that the step was scheduled at.
            lr_factor: that it took.
        """
        if self._optim.average == "off" or (self._optim.average == "swa" and not self._is_due(progress, lr_factor)):
            return
        self._count += 1
        share = 1 / self._count
        if self._optim.average == "ema":
            share = max(share, -math.expm1((self._last - progress) / self._optim.ema_window))
        self._last = progress
        torch._foreach_lerp_(self._mean, self._trained, share)

    def _is_due(self, progress: float, lr_factor: float) -> bool:
        if progress < 1 - self._schedule.warmdown or lr_factor >= self._optim.swa_below:
            return False
        every = self._optim.swa_every
        return not self._count or not every or progress // every > self._last // every

    @property
    def averaged(self) -> bool:
        """Whether there is a mean to score."""
        return self._count > 0

    def in_the_end(self) -> AbstractContextManager[None]:
        """For the final scores and the export: the parameters hold the mean, where there is one."""
        return holding(self._trained, self._mean) if self.averaged else nullcontext()

    def copy(self) -> Weights:
        """The same parameters, with a mean of its own that goes on from this one."""
        twin = copy.copy(self)
        twin._mean = [mean.clone() for mean in self._mean]
        return twin

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"count": self._count, "last": self._last, "mean": self._mean}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        self._count, self._last = state["count"], state["last"]
        for mine, saved in zip(self._mean, state["mean"], strict=True):
            mine.copy_(saved)


@contextmanager
def holding(parameters: list[Tensor], values: list[Tensor], kept: list[Tensor] | None = None) -> Iterator[None]:
    """For the block, `parameters` hold `values`; after it what they held before, to the bit.

    Args:
        parameters: changed in place, so that optimisers and graphs keep knowing them.
        values: one a parameter, of its shape.
        kept: memory for what they hold meanwhile; made anew without it.
    """
    with torch.no_grad():
        kept = [torch.empty_like(parameter) for parameter in parameters] if kept is None else kept
        torch._foreach_copy_(kept, parameters)
        torch._foreach_copy_(parameters, values)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, kept)
