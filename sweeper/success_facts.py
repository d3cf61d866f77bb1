"""What a table of success is made from.  Counts of tokens are those of the phases of kind `pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sweeper.scaling.records import Estimate, Unidentified


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """Active parameters by a named definition."""

    count: int | None
    """None where it is not known; `definition` then says why."""
    definition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveReading:
    """S2 on one part of the run with a constant rate."""

    part: str
    newest: bool
    """Whether no later part with a constant rate has begun: only then does it count."""
    newest_refusal: str = ""
    """Where this part is not the newest: which is, and why S2 is not identified there."""
    saturation: Estimate | Unidentified
    tokens: int = 0
    """Where L_now was measured."""
    gain: float | None = None
    """Nats that 10 % more tokens would take off, by the law."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a run when its table is made."""

    state: str
    """Of the promotion: `waiting`, `running`, `complete`, `diverged`, `stopped`, `failed`."""
    reason: str = ""
    active: Active
    planned_positions: int
    positions: int
    targets: int | None
    """None where it is not known yet, or not apart from other phases."""
    targets_unknown: str = ""
    held_seconds: float
    """For which devices were held, all attempts; waiting for one is not counted."""
    left_seconds: float | None
    """Forecast of what is to come; None where unknown."""
    val_loss: float | None
    """Nats per token: of the final validation, else the latest streamed one."""
    val_is_final: bool
    val_loss_forecast: Estimate | None = None
    """At the end of the plan."""
    curve: CurveReading | None
    """None where no part with a constant rate has begun."""
    skips_are_known: bool = True
    """Whether sweeper's own trainer runs it, which skips no batch."""

    @property
    def live(self) -> bool:
        return self.state in ("waiting", "running")


def active_parameters(model: dict[str, Any], config: dict[str, Any], parameters: int | None) -> Active:
    """Active parameters by the family's own definition; else all less the embedding (and the head, where untied).

    Args:
        model: as the trainer's Start reports it; empty for families with nothing to add.
        config: of the run.
        parameters: all of them, a tied embedding once; None before the Start.
    """
    if "active" in model:
        return Active(count=int(model["active"]), definition=str(model.get("active_definition", "as the model says")))
    shape = config.get("model") or {}
    vocabulary, width = shape.get("vocab_size"), shape.get("model_dim")
    if parameters is None or not vocabulary or not width:
        missing = "the run has not started" if parameters is None else "the run's config names no vocabulary and width"
        return Active(count=None, definition=missing)
    tied = bool(shape.get("tie_embeddings", True))
    count = parameters - (1 if tied else 2) * vocabulary * width
    return Active(count=count, definition=f"all parameters less the embedding{'' if tied else ' and the untied head'}")
