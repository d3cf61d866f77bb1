"""Where values come from and where they go: the two ends of a transfer, and what the study knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sweeper.scaling import priors
from sweeper.scaling.loss_law import LossLaw
from sweeper.scaling.power_law import PowerLaw
from sweeper.scaling.step_time import StepTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Values that a run had, where its cell's optimum lies elsewhere."""

    learning_rate: float
    batch_tokens: float
    weight_decay: float | None
    """0 for none, None where it is not known."""

    def __post_init__(self) -> None:
        _check_positive(self, ("learning_rate", "batch_tokens"))
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The short run whose values are to be moved, or the optimum of its cell."""

    n_params: float
    tokens: float
    batch_tokens: float
    learning_rate: float
    """Best rate: the vertex of the longest short horizon, or that of the best trial."""
    weight_decay: float | None = None
    """None where short runs never identified it."""
    rate_deviation: float = 0.0
    """Octaves: how sure the best rate is (root of the vertex's variance)."""
    depth: float | None = None
    mean_rate: float = 1.0
    """Mean of rate / peak rate over the run's schedule; matters where the target's schedule has another shape."""
    censored: bool = False
    """Whether its optimum lies at an edge of what was tried, or no vertex was found."""
    least_batch: bool = False
    """Whether its batch is the smallest tried and the best: the best one may be smaller still."""
    confirmed: bool = False
    """Whether it is that of confirmation runs, made to be nearer to a target than the study is."""
    given: Given | None = None
    """What a copy takes; None: the values above."""

    def __post_init__(self) -> None:
        _check_positive(self, ("n_params", "tokens", "batch_tokens", "learning_rate", "mean_rate"))
        if self.weight_decay is not None and not self.weight_decay > 0:
            raise ValueError(f"weight_decay must be positive, or None where unknown, got {self.weight_decay}")

    @property
    def steps(self) -> float:
        return self.tokens / self.batch_tokens

    @property
    def tau(self) -> float | None:
        """1 / (rate x decay x steps x mean rate)."""
        if self.weight_decay is None:
            return None
        return 1 / (self.learning_rate * self.weight_decay * self.steps * self.mean_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The budget to transfer to: tokens, or seconds on a device whose step time is known."""

    n_params: float
    tokens: float | None = None
    seconds: float | None = None
    step_time: StepTime | None = None
    depth: float | None = None
    """Layers; needed with `seconds`."""
    batch_quantum: int = 1
    """Tokens of a micro-batch over all devices: batches are whole multiples of it."""
    least_batch: float = 0.0
    """Smallest batch at which the device is well used, tokens."""
    largest_batch: float = np.inf
    """B_crit, or what fits."""
    mean_rate: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, ("n_params", "batch_quantum", "mean_rate"))
        if (self.tokens is None) == (self.seconds is None):
            raise ValueError(f"a budget is tokens or seconds, got tokens={self.tokens}, seconds={self.seconds}")
        _check_positive(self, ("tokens",) if self.tokens is not None else ("seconds",))
        if self.seconds is not None and (self.step_time is None or self.depth is None):
            raise ValueError("a budget in seconds needs the step_time of the device and the depth of the model")
        if not self.least_batch <= self.largest_batch:
            raise ValueError(f"least_batch {self.least_batch} is above largest_batch {self.largest_batch}")

    def tokens_at(self, batch_tokens: float) -> float:
        """Tokens that the budget affords at this batch."""
        if self.tokens is not None:
            return self.tokens
        assert self.seconds is not None and self.step_time is not None and self.depth is not None
        return self.seconds / self.step_time.seconds(self.depth, batch_tokens).value * batch_tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class Laws:
    """What is known of how optima and loss move; the priors where nothing was fitted."""

    rate: PowerLaw | None = None
    """Of the best rate on n_params, batch_tokens, tokens."""
    batch: PowerLaw | None = None
    """Of the best batch on tokens."""
    tau: PowerLaw | None = None
    """Of the best tau on tokens_per_param."""
    loss: LossLaw | None = None
    rate_beliefs: priors.Priors = field(default_factory=lambda: priors.RATE)
    """`priors.RATE_MUP` where the model is parameterised so."""
    stable_rate: float | None = None
    """Largest rate that did not diverge at the longest horizon."""
    censored: int = 0
    """Cells whose optimum is at an edge."""


def sizes(n_params: float, tokens: float, batch_tokens: float) -> Mapping[str, float]:
    """All that a law may ask for, of one run."""
    steps = tokens / batch_tokens
    return {
        "n_params": n_params,
        "tokens": tokens,
        "batch_tokens": batch_tokens,
        "steps": steps,
        "tokens_per_param": tokens / n_params,
    }


def _check_positive(record: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(record, name)
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and positive, got {value}")
