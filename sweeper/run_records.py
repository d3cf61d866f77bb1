"""What the read model hands out of one run: its points, scores, artifact, messages; see records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeper.protocol import RunKind
from sweeper.records import TrialRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One score of a run at its full budget."""

    name: str
    """As a study's `judge` would name it."""
    val_bpb: float
    stderr: float | None
    val_tokens: int | None
    """Tokens that it was measured on; None where that was not kept."""
    eval_seconds: float | None
    judges: bool
    """Whether the study ranks by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The plain score of a run at a budget of the ladder."""

    budget: float | None
    """In the unit of the run's own; None for the full one."""
    step: int
    tokens: int
    seconds: float
    """Training seconds that a run of this budget takes."""
    val_loss: float
    val_bpb: float
    stderr: float | None
    branch_seconds: float
    """Of which those after the branch left the trunk, on top of the run's own; 0 for the full one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What the trained weights were exported as."""

    scheme: str
    codec: str
    artifact_bytes: int
    code_bytes: int
    raw_bytes: int
    """Packed, before compression."""
    val_bpb: float
    gap: float
    """What the round trip costs, in the unit of the score."""
    export_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPoints:
    """Every point of one run, NaN where a point has no such value; all arrays (points,)."""

    step: NDArray[np.float64]
    tokens: NDArray[np.float64]
    seconds: NDArray[np.float64]
    progress: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    lr_factor: NDArray[np.float64]
    tokens_per_second: NDArray[np.float64]
    val_loss: NDArray[np.float64]
    """Nats per token."""
    val_bpb: NDArray[np.float64]
    val_bpb_stderr: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Something a run said that is no curve point."""

    at: float
    kind: str
    """`start`, `phase`, `sample`, `notice`, `log`, `end`, `failure`."""
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One execution."""

    number: int
    attempt: int
    state: str
    reason: str
    worker: str | None
    created_at: float
    ended_at: float | None
    wall_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A remark of a person's."""

    trial: int | None
    """None of one on the study."""
    text: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """A trial or a promotion with everything known about it; curve merged over attempts."""

    study: str
    kind: RunKind
    number: int
    row: TrialRow
    """The newest attempt (of a promotion, too)."""
    config: dict[str, Any]
    points: RunPoints
    streamed_val_bpb_stderr: float | None
    """Standard error of the latest validation; None where the trainer did not say."""
    scores: tuple[Score, ...]
    """Of the newest attempt; empty until it is complete."""
    artifact: Artifact | None
    messages: tuple[Message, ...]
    attempts: tuple[Attempt, ...]
    """Executions of these values, oldest first: of a trial, also those under earlier or later numbers."""
    versions: dict[str, Any]
    git_commit: str
    parameters: int | None
    peak_memory_bytes: int
    resumed_step: int
    step: int
    compiled_graphs: int | None
    """Graphs that the trainer process had compiled when the newest attempt started; None where it did not say."""
    graph_breaks: int | None
    """Places where the compiler had given up by then."""
    devices: int
    """Devices that share the newest attempt."""
    outcomes: tuple[Outcome, ...] = ()
    """At every budget so far, the full one last; a pruned or failed run can have some."""
    notes: tuple[Note, ...] = ()
    """On a trial, the newest first."""
