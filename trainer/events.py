"""What a trainer says, one JSON object a line.  Standard library only, no NaN on the wire.

Every run says Start, then any number of Step, Eval, Phase, Sample and Notice, and an Outcome with a `budget` for each
smaller budget that a branch of it came to; then, only when its own budget was reached, an Outcome without one and what
Score and Export were asked for; and it ends with exactly one End or Failure.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The run is set up and its clock is about to start."""

    kind: ClassVar[str] = "start"
    device: str
    """`cuda`, `cpu` or `mps`."""
    device_name: str
    versions: dict[str, str]
    """python, torch and, where present, cuda."""
    parameters: int
    """Trained parameters, the tied embedding once."""
    micro_batch_tokens: int
    """Of one device."""
    accumulation: int
    """Micro-batches a step on each device; micro_batch_tokens × accumulation × devices = tokens per step."""
    setup_seconds: float
    """Model building, compilation and warm-up: off the clock."""
    resumed_step: int = 0
    """Step of the checkpoint that this run goes on from; 0 for a fresh start."""
    compiled_graphs: int = 0
    """Graphs that this trainer process has compiled so far: it must not grow from trial to trial."""
    graph_breaks: int = 0
    """Places where the compiler gave up so far; 0 as it should be."""
    devices: int = 1
    """Devices that share the run, a process each; device_name is the first one's."""
    model: dict[str, Any] = field(default_factory=dict)
    """What the parameters are, by name, where a family has more to say than their count."""
    git_commit: str = ""
    """Of the training code, `-dirty` behind it where it was changed since; empty where nobody knows.  The worker that
    started the trainer fills it in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A sample of the training curve."""

    kind: ClassVar[str] = "step"
    step: int
    tokens: int
    seconds: float
    """Training seconds so far."""
    progress: float
    """Share of the budget used, in [0, 1]."""
    train_loss: float
    """Mean of the step's loss, nats per token."""
    lr_factor: float | None
    """Scheduled share of the peak rate; None of a trainer whose log does not say."""
    tokens_per_second: float
    """Of all devices together, since the last Step event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eval:
    """A validation at a share of the budget, always on the same tokens: what rungs are judged by."""

    kind: ClassVar[str] = "eval"
    step: int
    tokens: int
    seconds: float
    progress: float
    fraction: float
    """The share that was asked for (progress is where the step boundary fell); 1 at the end."""
    val_loss: float
    """Nats per token."""
    val_bpb: float
    """Bits per byte of text."""
    val_tokens: int
    eval_seconds: float
    val_bpb_stderr: float = 0.0
    """Standard error of val_bpb as an estimate for the text that its windows are a sample of; 0 for one window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A phase of the run's plan begins."""

    kind: ClassVar[str] = "phase"
    name: str
    index: int
    """Counts from 0."""
    step: int
    """Steps done before it."""
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the model makes of a prompt, as ids of its tokeniser; whoever has that can add the text."""

    kind: ClassVar[str] = "sample"
    step: int
    tokens: int
    prompt_ids: list[int]
    ids: list[int]
    """Of the continuation alone."""
    prompt: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The score of the run at its full budget, or of a branch of it at a smaller one."""

    kind: ClassVar[str] = "outcome"
    step: int
    tokens: int
    seconds: float
    val_loss: float
    val_bpb: float
    val_tokens: int
    val_bpb_stderr: float = 0.0
    """As in Eval."""
    targets: int | None = None
    """Of `tokens`, those that had a target in the loss; None where all of them had."""
    budget: float | None = None
    """The smaller budget, in the unit of the run's own; None for the full one, which is said last. Step, tokens and
    seconds are then those of a run of that budget, and the run itself has not come as far."""
    branch_seconds: float = 0.0
    """Of `seconds`, those that the branch trained for: they are no part of the run's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Another score of the run at its full budget, beside the Outcome's plain one; lower is better."""

    kind: ClassVar[str] = "score"
    name: str
    """One of SCORES."""
    step: int
    tokens: int
    seconds: float
    val_loss: float
    val_bpb: float
    val_tokens: int
    eval_seconds: float
    val_bpb_stderr: float = 0.0
    """As in Eval."""


SCORES = ("sliding", "quantised", "quantised_sliding")
"""Names of Score: with overlapping windows; after the round trip through the artifact; both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The artifact that the trained weights become, and what the way there and back costs."""

    kind: ClassVar[str] = "export"
    scheme: str
    """`int8` or `int6_int8`."""
    codec: str
    """`zlib` or `zstd`."""
    artifact_bytes: int
    """Compressed weights, and the code where it was asked for."""
    code_bytes: int
    """Of which code; 0 where it was not asked for."""
    raw_bytes: int
    """Packed weights before compression."""
    val_bpb: float
    """After the round trip: that of the Score `quantised`."""
    gap: float
    """val_bpb after the round trip less val_bpb before it, on the same tokens."""
    export_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a reader of the run should know, such as a halved micro-batch."""

    kind: ClassVar[str] = "notice"
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The run ended as it should."""

    kind: ClassVar[str] = "end"
    reason: str
    """`complete`, `stopped` (asked to) or `diverged`."""
    step: int
    tokens: int
    seconds: float
    wall_seconds: float
    """Everything since the config was read, setup and validation included."""
    peak_memory_bytes: int = 0
    """Largest memory of the first device; 0 where it does not say."""
    detail: str = ""
    targets: int | None = None
    """As in Outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The run could not go on: a fault of the machine or of the config, never of the trial's values."""

    kind: ClassVar[str] = "failure"
    reason: str
    """`config`, `data`, `checkpoint`, `out_of_memory` or `crash` from the trainer; the worker adds `died`
    (the process went away), `hung` (it fell silent) and `worker_lost`."""
    message: str
    traceback: str = ""
    context: dict[str, str] = field(default_factory=dict)


Event = Start | Step | Eval | Phase | Sample | Outcome | Score | Export | Notice | End | Failure
EVENTS: dict[str, type[Event]] = {
    kind.kind: kind
    for kind in (
        Start,
        Step,
        Eval,
        Phase,
        Sample,
        Outcome,
        Score,
        Export,
        Notice,
        End,
        Failure,
    )
}


def encode(event: Event) -> str:
    """One line of strict JSON, without the newline.

    Raises:
        ValueError: a number that is not finite; whoever emits an event decides what it means.
    """
    return json.dumps(to_dict(event), allow_nan=False)


def to_dict(event: Event) -> dict[str, Any]:
    """The event's fields and its kind under `event`, as plain JSON values."""
    return {"event": event.kind, **dataclasses.asdict(event)}


def decode(line: str) -> Event:
    """The event on a line.

    Raises:
        ValueError: not JSON, no known event kind, missing fields or numbers that are not finite.
    """
    return from_dict(json.loads(line, parse_constant=_reject_constant))


def from_dict(values: dict[str, Any]) -> Event:
    """The event in plain values; keys that this version does not know are dropped, so that a newer
    trainer can talk to an older service."""
    if not isinstance(values, dict) or values.get("event") not in EVENTS:
        raise ValueError(f"expected an event object with one of {sorted(EVENTS)}, got {values!r:.200}")
    kind = EVENTS[values["event"]]
    names = {f.name for f in dataclasses.fields(kind)}
    given = {key: value for key, value in values.items() if key in names}
    for key, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"event {kind.kind}: {key} must be finite, got {value}")
    try:
        event: Event = kind(**given)
    except TypeError as error:
        raise ValueError(f"event {kind.kind} is incomplete: {error}") from error
    return event


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not allowed on the wire")
