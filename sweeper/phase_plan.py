"""What a promotion stored of its course: its phases, how far a run is in them, which parts have a constant rate, and
the score that was foretold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.promotion_records import Phase
from sweeper.run_records import RunPoints
from sweeper.scaling.records import Estimate
from sweeper.transferred import Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Tokens of the run, warm-up left out, over which the rate does not change."""

    name: str
    begin: int
    end: int


def phases_of(config: dict[str, Any], tokens: int, state: str) -> tuple[Phase, ...]:
    """The plan's phases for a run that has trained so many tokens; none where the config has no plan.

    Phases end at whole steps of the run, as in the trainer. Times are not filled in.

    Args:
        config: of the run, as plain values.
        tokens: positions trained so far.
        state: of the promotion.
    """
    batch = int((config.get("data") or {}).get("batch_tokens") or 1)
    found: list[Phase] = []
    planned = 0
    for index, said in enumerate((config.get("plan") or {}).get("phases") or ()):
        planned += int(said["tokens"])
        begin = found[-1].end if found else 0
        found.append(_phase(index, said, begin, math.ceil(planned / batch) * batch, tokens, state))
    return tuple(found)


def _phase(index: int, said: dict[str, Any], begin: int, end: int, tokens: int, state: str) -> Phase:
    """A phase as a config says it; what it leaves out is the trainer's default."""
    shape = said.get("shape", "constant")
    return Phase(
        index=index,
        name=str(said["name"]),
        kind=said.get("kind", "pretrain"),
        begin=begin,
        end=end,
        trained=min(max(tokens - begin, 0), end - begin),
        lr=float(said.get("lr", 1.0)),
        final_lr=None if shape == "constant" else float(said.get("final_lr") or 0.0),
        shape=shape,
        warmup=float(said.get("warmup") or 0.0),
        optimizer=said.get("optimizer", "keep"),
        data=said.get("data", ""),
        split=said.get("split", "train"),
        windows=said.get("windows", "stream"),
        dropout=said.get("dropout"),
        state=_state(begin, end, tokens, state),
        seconds=None,
        left_seconds=None,
    )


def _state(begin: int, end: int, tokens: int, state: str) -> str:
    live = state in ("waiting", "running")
    if tokens >= end or state == "complete":
        return "complete"
    if tokens > begin or (tokens == begin and state == "running"):
        return state
    return "waiting" if live else "not reached"


def constant_parts(config: dict[str, Any], phases: Sequence[Phase], planned: int) -> list[Part]:
    """Where a law of held-out losses at one rate can hold: phases of kind pretrain, or the trunk of one schedule."""
    if phases:
        return [
            Part(name=phase.name, begin=phase.begin + round(phase.warmup * phase.tokens), end=phase.end)
            for phase in phases
            if phase.kind == "pretrain" and phase.shape == "constant"
        ]
    schedule = config.get("schedule") or {}
    if "warmdown" not in schedule:
        return []
    begin, end = schedule.get("warmup", 0.0) * planned, (1 - schedule["warmdown"]) * planned
    return [Part(name="the constant part", begin=round(begin), end=round(end))] if end > begin else []


def foretold_loss(transfer: Transfer | None, points: RunPoints) -> Estimate | None:
    """The predicted score in nats per token; None without one, and before the first validation.

    Bits per byte and nats per token have a ratio that is the text's and its tokens': that of the newest validation.
    """
    taken = transfer.taken if transfer else None
    both = np.flatnonzero(np.isfinite(points.val_loss) & np.isfinite(points.val_bpb) & (points.val_bpb > 0))
    if taken is None or taken.predicted is None or not len(both):
        return None
    ratio = float(points.val_loss[both[-1]] / points.val_bpb[both[-1]])
    told = taken.predicted
    return Estimate(ratio * told.value, ratio * told.low, ratio * told.high)
