"""What the read model hands out of a promotion beside its run: phases, forecast, samples, parameters, success."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.saturation import Forecast
from sweeper.scaling.records import Array, Estimate, Unidentified
from sweeper.success import Success
from sweeper.transferred import Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase of the plan and how far the run is in it. Tokens are positions."""

    index: int
    name: str
    kind: str
    """`pretrain`, `instruct` or `remedial`."""
    begin: int
    """Tokens of the run before it."""
    end: int
    trained: int
    lr: float
    """Share of the peak rates."""
    final_lr: float | None
    """Where the shape leads to; None of a constant rate."""
    shape: str
    warmup: float
    """Share of the phase."""
    optimizer: str
    data: str
    split: str
    windows: str
    dropout: float | None
    state: str
    """`waiting`, `running`, `complete`; in a run that ended there its state; `not reached`."""
    seconds: float | None
    """Training seconds spent in it; None before it begins, and where the trainer did not say when it began."""
    left_seconds: float | None
    """Forecast of the wall time until its end; None once it is over, or where the speed is not known."""

    @property
    def tokens(self) -> int:
        return self.end - self.begin

    @property
    def share(self) -> float:
        return self.trained / self.tokens if self.tokens else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the model made of a prompt."""

    at: float
    step: int
    tokens: int
    prompt: str
    text: str
    """The continuation alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The counts that go by the name of parameters, apart, and the graph where the family has one."""

    counts: tuple[tuple[str, int], ...]
    """Label and count."""
    definition: str
    """Of active."""
    edges: tuple[tuple[int, int], ...] = ()
    """(from, to) by node."""
    topology_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossCurve:
    """Held-out losses of the whole run, and the band of the part that it is in."""

    tokens: Array
    loss: Array
    """Nats per token."""
    part: str
    """Name of the part that `band` is of; empty where no rate is constant."""
    band: Forecast | Unidentified


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    """How a promotion stands against its plan."""

    state: str
    tokens: int
    planned_tokens: int
    phases: tuple[Phase, ...]
    """Empty for a plan of one schedule."""
    tokens_per_second: float | None
    """Of late; before the first point what the plan took."""
    held_seconds: float
    """For which devices were held, all attempts."""
    left_seconds: float | None
    """Forecast of the wall time to the end of training; None once ended, or where the speed is not known."""
    curve: LossCurve
    samples: tuple[Sample, ...]
    """Newest first."""
    parameters: Parameters | None
    """None before the Start."""
    success: Success
    transfer: Transfer | None = None
    """What the laws made of it when it was planned; None where they were not asked."""
    foretold_loss: Estimate | None = None
    """The predicted score in nats per token, at the rate of the newest validation; None before one, or without."""
