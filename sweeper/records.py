"""What the read model hands out: frozen records of plain values, and curves as flat numpy columns.

Times are Unix seconds, durations seconds, scores in the unit of their study, whatever their names say. A run's *score*
is the one that its study judges by, of complete runs alone; its *final* score is the plain one of its Outcome, and the
same where the study names no other; a *streamed* value is its latest validation on the way, and says nothing about the
score of a shorter run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sweeper.scores import Judge, ScoreUnit
from sweeper.transferred import CONFIRM, Interval

Metric = Literal["val_bpb", "train_loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One searched value, as a chart needs it."""

    path: str
    """Config path, such as `optim.matrix_lr`."""
    scale: Literal["linear", "log", "choice"]
    low: float | None = None
    high: float | None = None
    integer: bool = False
    step: float | None = None
    choices: tuple[str | int | float | bool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Trials by state; stopped and diverged ones are counted as pruned, as Optuna has them."""

    complete: int
    pruned: int
    running: int
    failed: int
    waiting: int
    """Trials still to start: to the target, or queued beyond it."""

    @property
    def done(self) -> int:
        """Trials that count towards the target."""
        return self.complete + self.pruned


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The complete trial with the lowest score among those that keep the study's limits."""

    number: int
    val_bpb: float
    """Its score, of the kind that the study's `judge` names."""
    params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRun:
    """A run in a worker's hand now."""

    kind: str
    number: int
    name: str
    """Such as `trial 3`, `promotion 0`, `confirmation run 1`."""
    attempt: int
    worker: str | None
    progress: float
    step: int
    tokens: int
    seconds: float
    train_loss: float | None
    val_bpb: float | None
    """Latest streamed value."""
    tokens_per_second: float | None
    params: dict[str, Any]
    started_at: float | None
    stop_requested: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """A full run of a trial's values or of a plan's own, at its newest attempt."""

    number: int
    trial: int | None
    """None for the values of the plan itself."""
    state: str
    attempt: int
    """0 while it waits for its first worker."""
    progress: float
    val_bpb: float | None
    """Once complete the score that the study judges by, else the latest streamed value."""
    infeasible: str
    """The limits that it breaks, in words; empty for none, and until it is complete."""
    tokens: int
    planned_tokens: int
    seconds: float
    tokens_per_second: float | None
    reason: str
    created_at: float
    ended_at: float | None
    by: str = "copied"
    """Whose values it runs: `copied`, `prior`, `fitted`, `own` for those of the plan itself, or `confirm`: it is a
    confirmation run of the study's laws."""
    confirms: str = ""
    """Of a confirmation run: what it is for, in words."""
    hours: float | None = None
    """What was asked for, where it was hours."""
    foretold: Interval | None = None
    """The score that was predicted when it was planned; None where no law was."""

    @property
    def confirming(self) -> bool:
        """Whether it is a confirmation run of the study's laws, and no full run."""
        return self.by == CONFIRM

    @property
    def name(self) -> str:
        return f"{'confirmation run' if self.confirming else 'promotion'} {self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """How a study stands."""

    name: str
    description: str
    state: str
    """What its owner wants: `running`, `paused`, `stopped`."""
    finished: bool
    """The target is reached, nothing runs and nothing is queued."""
    profile: str
    target: int
    counts: Counts
    judge: Judge
    """Which score ranks."""
    unit: ScoreUnit
    """Of all its scores."""
    foreign: bool
    """Whether its runs were made elsewhere, of configs that are not whole; see origins."""
    constraints: dict[str, int]
    """Limits by name, in bytes; those that are set."""
    infeasible: int
    """Complete trials that break a limit."""
    best: Best | None
    gpu_seconds: float
    """Seconds for which devices were held, running ones up to now."""
    eta_seconds: float | None
    """None when unknown: nothing has ended yet, or nothing runs."""
    running: tuple[RunningRun, ...]
    promotions: tuple[Promotion, ...]
    axes: tuple[Axis, ...]
    budget: dict[str, Any]
    rungs: tuple[float, ...]
    created_at: float
    tokens_per_second: float | None
    """Sum over the runs in hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One trial at its newest attempt."""

    run: int
    number: int
    state: str
    """`running`, `complete`, `pruned`, `diverged`, `stopped`, `failed`."""
    reason: str
    attempt: int
    params: dict[str, Any]
    score: float | None
    """What ranks it, of the kind that the study's `judge` names: only complete trials have one."""
    score_stderr: float | None
    """Standard error of the score; None where the trainer did not say."""
    infeasible: str
    """The limits that it breaks, in words; empty for none. It is not best, whatever its score."""
    final_val_bpb: float | None
    """Of its Outcome: only complete trials have one."""
    final_val_bpb_stderr: float | None
    """Standard error of the final score; None where the trainer did not say."""
    artifact_bytes: int | None
    """Of its Export."""
    streamed_val_bpb: float | None
    progress: float
    tokens: int
    seconds: float
    wall_seconds: float
    tokens_per_second: float | None
    train_loss: float | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    worker: str | None
    device: str
    device_name: str
    stop_requested: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """One metric of many runs, end to end: run i owns the slice offsets[i]:offsets[i + 1]."""

    metric: Metric
    numbers: tuple[int, ...]
    states: tuple[str, ...]
    offsets: NDArray[np.int64]
    """(runs + 1,)"""
    progress: NDArray[np.float32]
    """(points,) share of the budget, in [0, 1]."""
    values: NDArray[np.float32]
    """(points,)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Importances:
    """Share of each searched value in reaching the best trials; empty, with a sentence, where unknown."""

    shares: dict[str, float]
    trials: int
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """One line of the audit trail."""

    at: float
    actor: str
    verb: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker that said hello."""

    id: str
    host: str
    pid: int
    device: str
    device_name: str
    state: str
    first_seen: float
    last_seen: float
