"""One run that was made elsewhere, as plain rows for our tables; what was left out, and why.  Pure, and picklable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sweeper.scores import BITS_PER_BYTE, NATS_PER_TOKEN
from sweeper.space import Value
from sweeper.wire import tidy
from trainer.events import End, Eval, Event, Export, Outcome, Score, Start, Step, to_dict

Row = dict[str, Any]

LARGEST_STEP = 2**31 - 1
LARGEST = 2**63 - 1
LONGEST_SECONDS = 1e9
THERE = "there already"
GROWN = "its log has grown since"
"""Detail of what is there already, and stays as it was."""
COPY = "a copy of another one"
BITS, NATS = BITS_PER_BYTE.words, NATS_PER_TOKEN.words
"""Units of scores; a study has one."""
RATES = ("matrix_lr", "learning_rate", "lr")
"""Last parts of paths that hold the rate which laws are fitted of; others, such as head_lr of tied heads, may be 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A run that is not stored."""

    source: str
    reason: str
    """One of few: reports count by it."""
    detail: str = ""
    """The value, the expectation; empty where the reason says it all."""


@dataclass(slots=True, kw_only=True)
class Run:
    """A run and what is stored of it; rows lack only the id of the run."""

    source: str
    """Where it was read, in words: a path, or a file and a row."""
    identity: str
    """The same for the same run however often it is read: a SHA-256."""
    content: str = ""
    """Of a run that was read from a file of its own: a SHA-256 of its bytes, which are known without being read."""
    name: str
    values: dict[str, Value]
    """Hyperparameters by config path or `trainer.KNOB`, budget and seeds included, as far as the source has them."""
    state: str = "complete"
    """As RunRow.state, of runs that ended by themselves or by a pruner."""
    reason: str = ""
    started_at: float | None = None
    device_name: str = ""
    parameters: int | None = None
    parameters_count: str = "unknown"
    """What `parameters` counts: a ParamsCount, or `unknown` where nobody said."""
    devices: int = 1
    """That trained it together."""
    score_unit: str = BITS
    """Of every score and of val_bpb on the way, whatever their names say."""
    peak_memory_bytes: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0
    progress: float = 0.0
    train_loss: float | None = None
    val_bpb: float | None = None
    last_seq: int = -1
    judged: dict[str, float] = field(default_factory=dict)
    """val_bpb by the name that a study's `judge` would have for it."""
    points: list[Row] = field(default_factory=list)
    messages: list[Row] = field(default_factory=list)
    outcomes: list[Row] = field(default_factory=list)
    scores: list[Row] = field(default_factory=list)
    exports: list[Row] = field(default_factory=list)
    config: dict[str, Any] | None = None
    """All values, nested, where the source has them as a trainer got them; None where `values` is all there is."""
    row: Row = field(default_factory=dict)
    """Columns of the run's row that its source has, over those that follow from the rest."""

    def tell(self, events: Iterable[Event], at: float) -> None:
        """Take in what the run said, in order.

        Args:
            at: Unix seconds that its messages are filed under.
        """
        for seq, event in enumerate(events, start=self.last_seq + 1):
            self._take(seq, event, at)
            self.last_seq = seq

    def _take(self, seq: int, event: Event, at: float) -> None:
        if isinstance(event, (Step, Eval)):
            self.points.append({"seq": seq} | _point(event))
            self.progress = event.progress
        elif isinstance(event, Outcome):
            # A smaller budget can come to the same tokens as the full one, which counts.
            self.outcomes = [row for row in self.outcomes if row["tokens"] != event.tokens] + [_scored(event)]
            if event.budget is None:
                self.judged["final"] = self.val_bpb = event.val_bpb
                self.progress = 1.0
        elif isinstance(event, Score):
            self.scores.append(_scored(event))
            self.judged[event.name] = event.val_bpb
        elif isinstance(event, Export):
            short = {"scheme": event.scheme[:32], "codec": event.codec[:32]}
            self.exports.append(dataclasses.asdict(event) | short)
        else:
            body = {key: value for key, value in to_dict(event).items() if key != "event"}
            self.messages.append({"seq": seq, "at": at, "kind": event.kind, "body": body})
        self._advance(event)

    def _advance(self, event: Event) -> None:
        if isinstance(event, Outcome) and event.budget is not None:
            return  # a branch's steps are none of the run's
        if isinstance(event, (Step, Eval, Outcome, End)):
            self.step, self.tokens, self.seconds = event.step, event.tokens, event.seconds
        if isinstance(event, Step):
            self.train_loss = event.train_loss
        elif isinstance(event, Eval):
            self.val_bpb = event.val_bpb
            if event.fraction >= 1:
                self.judged["streamed"] = event.val_bpb
        elif isinstance(event, Start):
            self.parameters = event.parameters or None
            self.devices = event.devices
            self.device_name = self.device_name or event.device_name
        elif isinstance(event, End):
            self.state, self.reason = ("complete" if event.reason == "complete" else event.reason), event.detail
            self.peak_memory_bytes = event.peak_memory_bytes
            self.wall_seconds = event.wall_seconds


_POINT = ("step", "tokens", "seconds", "progress")
_OF_ONE_KIND = ("fraction", "train_loss", "lr_factor", "tokens_per_second", "val_loss", "val_bpb")


def _point(event: Step | Eval) -> Row:
    row = {name: getattr(event, name) for name in _POINT}
    row |= {name: getattr(event, name, None) for name in _OF_ONE_KIND}
    return row | {"val_bpb_stderr": getattr(event, "val_bpb_stderr", None) or None}  # 0 where nobody knows


def _scored(event: Outcome | Score) -> Row:
    return dataclasses.asdict(event) | {"val_bpb_stderr": event.val_bpb_stderr or None}


def checked(run: Run) -> Run | Skipped:
    """The run with texts that any database can hold; skipped where a number of it fits no column."""
    run.name, run.source, run.reason, run.device_name = map(tidy, (run.name, run.source, run.reason, run.device_name))
    run.values, run.config, run.row = tidy(run.values), tidy(run.config), tidy(run.row)
    for message in run.messages:
        message["body"] = tidy(message["body"])
    own = {"step": run.step, "tokens": run.tokens, "parameters": run.parameters, "memory": run.peak_memory_bytes}
    for row in (own, *run.points[-1:], *run.outcomes, *run.scores, *run.exports):
        for name, value in row.items():
            if isinstance(value, int) and not 0 <= value <= (LARGEST_STEP if name == "step" else LARGEST):
                return Skipped(source=run.source, reason="a number out of range", detail=f"{name} is {value}")
    for name, score in {"val_bpb": run.val_bpb, **run.judged}.items():
        if score is not None and score <= 0:
            detail = f"the {name} score is {score:g}; {BITS} and {NATS} are positive"
            return Skipped(source=run.source, reason="a score that is not positive", detail=detail)
    for path, value in run.values.items():
        if path.rpartition(".")[2].lower() in RATES and isinstance(value, (int, float)) and value <= 0:
            return Skipped(source=run.source, reason="a rate that is not positive", detail=f"{path} is {value:g}")
    if not 0 <= max(run.seconds, run.wall_seconds) <= LONGEST_SECONDS:
        return Skipped(source=run.source, reason="a number out of range", detail=f"it took {run.seconds:g} seconds")
    return run


def identity_of(*parts: Any) -> str:
    """SHA-256 of plain values, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
