"""A full run as phases, one after another on one clock.  Standard library only."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from trainer.values import require


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseConfig:
    """A part of a run with data, rates and dropout of its own. Lengths are tokens, or shares of them."""

    name: str
    """Unlike those of the other phases; it names the checkpoint that is kept of the phase's end."""
    tokens: int
    """Positions trained in the phase. Phases end at whole steps of the run."""
    kind: Literal["pretrain", "instruct", "remedial"] = "pretrain"
    """What it is for: saturation and tokens per parameter are those of pretraining."""
    lr: float = 1.0
    """Rate after the warm-up, as a share of the peak rates of `optim`."""
    shape: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate goes on from there to the end of the phase."""
    final_lr: float = 0.0
    """`linear` and `cosine`: rate at the end of the phase, as a share of the peak rates."""
    warmup: float = 0.0
    """Share of the phase over which the rate rises linearly from 0."""
    optimizer: Literal["keep", "reset"] = "keep"
    """Whether moments and momentum go on from the phase before, or begin at zero."""
    data: str = ""
    """Prepared folder; empty is data.path."""
    split: Literal["train", "reserve"] = "train"
    """As data.split."""
    windows: Literal["stream", "documents"] = "stream"
    """As data.windows."""
    dropout: float | None = None
    """Of this phase; None is the model's own."""

    def __post_init__(self) -> None:
        where = f"plan.phases {self.name!r}:"
        require(
            bool(self.name) and all(letter.isalnum() or letter in "-_." for letter in self.name),
            f"plan.phases: a name is made of letters, digits, '-', '_' and '.', got {self.name!r}",
        )
        require(self.tokens > 0, f"{where} tokens must be positive, got {self.tokens}")
        require(self.lr > 0, f"{where} lr must be positive, got {self.lr}")
        require(self.final_lr >= 0, f"{where} final_lr must not be negative, got {self.final_lr}")
        require(0 <= self.warmup <= 1, f"{where} warmup must be in [0, 1], got {self.warmup}")
        require(
            self.shape != "constant" or self.final_lr == 0,
            f"{where} final_lr has no effect on shape 'constant'; got {self.final_lr}",
        )
        require(self.dropout is None or 0 <= self.dropout < 1, f"{where} dropout must be in [0, 1), got {self.dropout}")

    def lr_factor(self, progress: float) -> float:
        """Share of the peak rates at `progress` through the phase, in [0, 1]."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        rest = (progress - self.warmup) / max(1.0 - self.warmup, 1e-12)
        if self.shape == "linear":
            return self.lr + (self.final_lr - self.lr) * rest
        if self.shape == "cosine":
            return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * rest)) / 2
        return self.lr

    @property
    def source(self) -> tuple[str, str, str]:
        """Folder, split and kind of windows: phases that share them go on in one order."""
        return self.data, self.split, self.windows


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """The phases of a full run; none for a run with one schedule."""

    phases: tuple[PhaseConfig, ...] = ()
    """In their order. budget.tokens is their sum, and `schedule` then has no say."""
    repeat_data: bool = False
    """Whether phases may go through their data more than once; without it a plan that needs more is refused."""

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        require(len(set(names)) == len(names), f"plan.phases: names must differ, got {names}")

    @property
    def tokens(self) -> int:
        """Of all phases."""
        return sum(phase.tokens for phase in self.phases)

    def ends(self, batch_tokens: int) -> list[int]:
        """The step of the run that each phase ends with."""
        sums = itertools.accumulate(phase.tokens for phase in self.phases)
        return [math.ceil(tokens / batch_tokens) for tokens in sums]
