"""The words between service, workers and control clients: pydantic models, no behaviour.

Workers register, lease one run at a time, and deliver its events in numbered batches.  A delivery is also
the heartbeat, and its receipt carries the service's only order: go on or stop.  An event is stored once,
however often it is delivered: (run, seq) is its identity.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sweeper.criteria import SuccessCriteria
from sweeper.scores import BITS_PER_BYTE, ScoreUnit
from sweeper.transferred import By, Confirms, Transfer

API = "/api/v1"

RunKind = Literal["trial", "promotion"]


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Hello(Wire):
    """A worker introduces itself: POST /workers."""

    worker: str
    """The worker's own random id, the same over reconnections."""
    host: str
    pid: int
    device: str
    """`cuda:0`, `cpu`, …: what its trainer will be given."""
    device_name: str


class Welcome(Wire):
    heartbeat_seconds: float
    """Longest time between two deliveries while a lease is held."""
    lease_seconds: float


class LeaseRequest(Wire):
    """POST /workers/{worker}/lease."""

    study: str | None = None
    """Only runs of this study."""
    kind: RunKind | None = None
    """Only trials, or only promotions; None takes promotions first."""
    commands: bool = False
    """Whether the worker's owner lets it run commands that a study names; see decision 6."""


class DataSpec(Wire):
    """The data set of a study: the worker finds or prepares it and fills `data.path` of the config."""

    name: str
    """`small` (packaged) or the path of a prepared folder on the worker's machine."""
    tokenizer: str = "sweeper1024"


class CommandRun(Wire):
    """A run of a training script of somebody's own, in place of sweeper's trainer."""

    argv: list[str] = Field(min_length=1)
    """Values included, where they are passed as arguments."""
    directory: str = ""
    """Folder on the worker; empty is where the worker was started."""
    environment: dict[str, str] = {}
    """Values, where they are passed as variables."""
    budget_seconds: float | None = None
    """None where steps end the run."""
    rungs: list[float] = []
    """Shares of the budget at which a validation is waited for."""
    batch_tokens: int | None = None
    """None where only the script knows."""
    keep: bool = False
    """Whether the files stay that it writes beside itself."""


class Grant(Wire):
    """One run, handed to one worker."""

    lease: int
    """Fencing token: ever growing; a delivery under a lease that has ended is refused with 409."""
    run: int
    study: str
    kind: RunKind
    number: int
    """Trial number, or promotion number."""
    attempt: int
    """1 for the first execution, counted up by retries."""
    config: dict[str, Any]
    """A TrainConfig as nested values, `data.path` and `checkpoint.path` still empty; see `command`."""
    command: CommandRun | None = None
    """What to run in place of the trainer; `config` is then what it was made of."""
    data: DataSpec
    checkpoint: str = ""
    """Name of the checkpoint folder under the worker's home; empty for runs that are repeated, not resumed."""
    hang_seconds: float
    """Silence of the trainer after which the worker kills it."""


class NoWork(Wire):
    reason: Literal["complete", "stopped", "paused", "wait", "refused"]
    """`complete` and `stopped`: this study will have no more work; `refused`: none for this worker, and `message` says
    what would change that; the others: ask again."""
    message: str
    retry_seconds: float = 1.0


class LeaseAnswer(Wire):
    grant: Grant | None = None
    no_work: NoWork | None = None


class Numbered(Wire):
    seq: int = Field(ge=0, lt=2**31)
    """Counts up from 0 within a run."""
    at: float
    """Unix seconds on the worker."""
    event: dict[str, Any]
    """A trainer event as `trainer.events.to_dict` gives it, or {"event": "log", "text": …}."""


class Delivery(Wire):
    """POST /leases/{lease}/events; an empty list is a heartbeat."""

    events: list[Numbered] = []


class Receipt(Wire):
    through: int
    """Every event up to this seq is stored; -1 for none."""
    command: Literal["continue", "stop"]
    reason: str = ""
    """Why to stop: `pruned`, `user`, `study stopped`."""


class Goodbye(Wire):
    """POST /workers/{worker}/goodbye: the worker is leaving, or its keeper saw it die."""

    reason: str


class Enqueue(Wire):
    """POST /studies/{name}/enqueue: try these values next."""

    params: dict[str, float | int | str | bool]
    """By config path, such as {"optim.matrix_lr": 0.02}; every axis of the space, nothing else, in range."""


class PromoteRequest(Wire):
    """POST /studies/{name}/promotions; with plan_only nothing is stored."""

    trial: int | None = None
    """None promotes the best trial."""
    tokens: str | None = None
    """`3B`, `500M`, `20x` (multiple of the trial's tokens); None takes the study file's [promote]."""
    hours: float | None = Field(default=None, gt=0)
    """Of training, in place of `tokens`: as many as they hold on the device of most trials, or on `gpu`."""
    gpu: str | None = None
    """Part of the name of the device whose hours those are."""
    device_name: str = ""
    """Of the device that is to run it, for the plan's time; empty takes the trial's own."""
    by: By | None = None
    """Whose values: the trial's own, or moved by a law. None takes the fitted law where it can be trusted unconfirmed
    and no trial is named, else the trial's own."""
    data_hash: str = ""
    """Of the plan that was agreed to: a law that has changed since is refused; empty takes what it is now."""
    why: str = Field(default="", max_length=2000)
    """Of the plan that was agreed to: why its values are taken, kept with the run; empty where `by` is the wish."""
    by_hand: bool = False
    """Whether to run the values that the study's plan has of its own, of no trial."""
    plan_only: bool = False


class PromotionPlan(Wire):
    """What a promotion will do, in numbers; `notes` are for the reader."""

    study: str
    trial: int | None
    """None for the values of the plan file itself."""
    name: str = ""
    """Of the plan file; empty where there is none."""
    number: int | None = None
    config: dict[str, Any]
    params: dict[str, Any]
    tokens: int
    steps: int
    tokens_per_second: float | None
    """None where nothing of this shape was measured yet."""
    seconds: float | None
    """tokens / tokens_per_second."""
    trial_tokens: int
    """0 without a trial."""
    trial_val_bpb: float | None
    """The score that the study judges by."""
    success: SuccessCriteria | None = None
    """Of a plan with phases."""
    judge: str = "final"
    unit: ScoreUnit = BITS_PER_BYTE
    """Of the study's scores."""
    hours: float | None = None
    """What was asked for, where it was hours."""
    confirms: Confirms | None = None
    """Of a confirmation run; None for full runs."""
    length: str = ""
    """What to ask for as `tokens` to have this plan again; empty is the count of tokens."""
    transfer: Transfer | None = None
    """What the laws of the study make of it; None for values by hand and for commands, which no law moves."""
    notes: list[str]


class ConfirmationPlan(Wire):
    """POST /studies/{name}/confirmations, which takes a PromoteRequest: the short runs that would confirm the law's
    candidate for that full run; stored unless plan_only."""

    study: str
    by: By
    """The candidate that they confirm."""
    full_tokens: int
    because: list[str]
    """Why; empty where nothing calls for confirmation, and there is no run."""
    runs: list[PromotionPlan]
    cost_share: float
    """Of all of them together, over the full run's; of those that are made already, too."""
    there: list[int] = []
    """Numbers of runs with equal values that are made, or under way: they are not made again."""
    data_hash: str
    """To agree to."""
    notes: list[str] = []
    """For the reader: what else waits, and runs before them."""


class Done(Wire):
    """Answer of every control verb: what happened, in words for the user."""

    message: str
