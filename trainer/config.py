"""What a run is: TrainConfig and its parts, frozen, checked where they are built.  Standard library only.

Defaults are those of the public parameter-golf baseline, except where a comment gives a reason.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.data_config import SHORTEST_TAIL as SHORTEST_TAIL
from trainer.data_config import DataConfig as DataConfig
from trainer.export_config import ExportConfig as ExportConfig
from trainer.export_config import packed_bytes as packed_bytes
from trainer.helix_config import HelixConfig as HelixConfig
from trainer.helix_sizes import helix_shapes as helix_shapes
from trainer.helix_topology import LARGEST_SEED
from trainer.helix_topology import topology_of as topology_of
from trainer.ladder_config import LadderConfig as LadderConfig
from trainer.model_config import ModelConfig as ModelConfig
from trainer.optim_config import OptimConfig as OptimConfig
from trainer.optim_config import ScheduleConfig as ScheduleConfig
from trainer.plan_config import PhaseConfig as PhaseConfig
from trainer.plan_config import PlanConfig as PlanConfig
from trainer.values import ConfigError as ConfigError
from trainer.values import build, require


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """When the run ends: exactly one of the three is set."""

    seconds: float | None = None
    """Training seconds: compile, warm-up, validation and checkpoints do not count."""
    tokens: int | None = None
    """Trained tokens; rounded up to whole steps."""
    steps: int | None = None
    """Optimiser steps."""

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) is not None}
        require(
            len(given) == 1,
            f"budget needs exactly one of seconds, tokens, steps; got {given or 'none of them'}",
        )
        for name, value in given.items():
            require(value > 0, f"budget.{name} must be positive, got {value}")

    @property
    def unit(self) -> Literal["seconds", "tokens", "steps"]:
        """What it counts."""
        if self.seconds is not None:
            return "seconds"
        return "steps" if self.tokens is None else "tokens"

    @property
    def amount(self) -> float:
        """How many of its unit."""
        return float(getattr(self, self.unit))

    def steps_of(self, batch_tokens: int) -> int | None:
        """Steps of the whole budget, or None when it is counted in seconds."""
        return math.ceil(self.tokens / batch_tokens) if self.tokens is not None else self.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """When the validation loss is measured. It is always measured at the end of the budget."""

    fractions: tuple[float, ...] = ()
    """Shares of the budget, ascending, in (0, 1), at which an Eval event is due."""
    val_tokens: int = 0
    """Validation tokens used at those shares and for the last point of the curve, spread evenly over the set;
    0 is the whole set."""
    final_val_tokens: int = 0
    """Validation tokens of the final score, spread evenly over the set; 0 is the whole set. The sliding score takes
    the same tokens, so that the two differ by context alone."""
    stride: int = 0
    """Also score at the end with windows that advance by this many tokens, each token once, with at least
    seq_len - stride tokens of context where the text has them; 0 for not. See the Score `sliding`."""
    sample_tokens: int = 0
    """Tokens that are generated at every validation, to be read by people; 0 for none."""
    sample_prompts: int = 2
    """How many such samples; their prompts begin windows that lie evenly in the validation text."""
    by_document: bool = False
    """Whether every validation keeps documents apart: none sees the one before it, as each has windows of its own. It
    costs up to a window more for every document."""

    def __post_init__(self) -> None:
        require(
            all(0 < share < 1 for share in self.fractions)
            and all(a < b for a, b in zip(self.fractions, self.fractions[1:], strict=False)),
            f"eval.fractions must be ascending shares in (0, 1), got {list(self.fractions)}",
        )
        for name in ("val_tokens", "final_val_tokens", "stride", "sample_tokens", "sample_prompts"):
            require(getattr(self, name) >= 0, f"eval.{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedConfig:
    """Initialisation and data order have numbers of their own, so that runs can be paired."""

    init: int = 1337
    data: int = 1337
    topology: int = 42
    """Of the graph of a helix, and of its size with it; the published one is 42."""

    def __post_init__(self) -> None:
        require(
            0 <= self.topology <= LARGEST_SEED,
            f"seeds.topology must be in [0, {LARGEST_SEED}], got {self.topology}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """Where and how the run executes; nothing here may change the mathematics."""

    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    """`auto` takes CUDA, then MPS, then the CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the blocks; `auto` compiles on CUDA only."""
    warmup_steps: int = 2
    """Untimed steps before the clock starts, undone afterwards: they compile, allocate, wake the threads."""
    log_every_seconds: float = 0.5
    """Least training seconds between two Step events; nor do they come closer than 1/400 of the budget, unless that
    would mean half a minute of silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """Atomic snapshots of everything that a bit-exact resume needs."""

    path: str = ""
    """Folder for the checkpoint; empty turns checkpoints off. A checkpoint found there is resumed."""
    every_seconds: float = 60.0
    """Training seconds between two checkpoints."""
    keep_last: int = 1
    """How many of the newest are kept; the ends of a plan's phases always are."""
    keep_best: bool = False
    """Whether a checkpoint follows each validation that is the best so far, and the best one is kept."""

    def __post_init__(self) -> None:
        require(self.every_seconds > 0, f"checkpoint.every_seconds must be positive, got {self.every_seconds}")
        require(self.keep_last >= 1, f"checkpoint.keep_last must be at least 1, got {self.keep_last}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything a run is. `from_dict` is the only door for JSON: unknown keys are rejected by name."""

    model: ModelConfig = field(default_factory=ModelConfig)
    helix: HelixConfig = field(default_factory=HelixConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    data: DataConfig = field(default_factory=DataConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    budget: BudgetConfig = field(default_factory=lambda: BudgetConfig(seconds=600.0))
    ladder: LadderConfig = field(default_factory=LadderConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    seeds: SeedConfig = field(default_factory=SeedConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        require(
            self.eval.stride <= self.data.seq_len,
            f"eval.stride must not exceed data.seq_len ({self.data.seq_len}), got {self.eval.stride}",
        )
        self._check_family()
        if self.plan.phases:
            self._check_plan()
        if self.ladder.budgets:
            self._check_ladder()

    @property
    def rungs(self) -> tuple[BudgetConfig, ...]:
        """The budgets of the ladder, ascending."""
        if self.budget.unit == "seconds":
            return tuple(BudgetConfig(seconds=amount) for amount in self.ladder.budgets)
        amounts = map(int, self.ladder.budgets)
        return tuple(BudgetConfig(**{self.budget.unit: amount}) for amount in amounts)

    def _check_ladder(self) -> None:
        """Every budget of the ladder is a run of its own, shorter than the next one."""
        require(
            not self.plan.phases,
            "ladder.budgets and plan.phases exclude each other: a phase has rates of its own, and no trunk to branch "
            "from; leave one of them out",
        )
        unit, own = self.budget.unit, self.budget.amount
        for amount in self.ladder.budgets:
            require(amount < own, f"ladder.budgets must be below budget.{unit} ({own:g}), got {amount:g}")
            whole = unit == "seconds" or amount == int(amount)
            require(whole, f"ladder.budgets must be whole numbers where the budget is in {unit}, got {amount:g}")
        steps = [budget.steps_of(self.data.batch_tokens) for budget in (*self.rungs, self.budget)]
        for rung, (shorter, longer) in zip(self.rungs, itertools.pairwise(steps), strict=True):
            require(
                shorter is None or shorter != longer,
                f"ladder.budgets: {rung.amount:g} {unit} make {shorter} steps of data.batch_tokens "
                f"({self.data.batch_tokens:,}), and so does the next larger budget; set them further apart",
            )

    def _check_plan(self) -> None:
        """A plan has the run's length and schedule to itself."""
        require(
            self.budget.tokens == self.plan.tokens,
            f"budget.tokens must be the sum of plan.phases, {self.plan.tokens:,} tokens, got {self.budget}",
        )
        said = _changed("schedule", self.schedule)
        said += [f"data.{name}" for name in ("split", "windows") if f"data.{name}" in _changed("data", self.data)]
        require(
            not said, f"{', '.join(said)} would have no effect on a run with plan.phases, which say that themselves"
        )
        ends = (0, *self.plan.ends(self.data.batch_tokens))
        for phase, (begin, end) in zip(self.plan.phases, itertools.pairwise(ends), strict=True):
            require(
                end > begin,
                f"plan.phases {phase.name!r}: {phase.tokens:,} tokens make no step of data.batch_tokens "
                f"({self.data.batch_tokens:,}); give it more, or make the batch smaller",
            )
            require(
                phase.dropout is None or self.model.family == "helix",
                f"plan.phases {phase.name!r}: dropout is for model.family 'helix', got {phase.dropout}",
            )

    def _check_family(self) -> None:
        """What says something of a family that is not chosen would be without effect: refused, by name."""
        family = self.model.family
        if family == "helix":
            said = _changed("model", self.model, but=("family", "vocab_size"))
            require(
                self.export.scheme != "int6_int8" and self.export.prune == 0,
                "export.scheme 'int6_int8' and export.prune are for the blocks of model.family 'gpt', and a helix has "
                "none; set export.scheme to 'off' or 'int8', and export.prune to 0",
            )
        else:
            said = _changed("helix", self.helix)
            said += ["seeds.topology"] if self.seeds.topology != SeedConfig().topology else []
        require(
            not said,
            f"{', '.join(said)} would have no effect on a model.family of {family!r}; remove "
            f"{'it' if len(said) == 1 else 'them'}, or set model.family to "
            f"{'gpt' if family == 'helix' else 'helix'!r}",
        )

    @staticmethod
    def from_dict(values: dict[str, Any]) -> TrainConfig:
        """Build a config from nested JSON values.

        Raises:
            ConfigError: an unknown key, a value of the wrong type, or one that cannot work; the message
                gives the dotted path.
        """
        return build(TrainConfig, values, "")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, for JSON."""
        return dataclasses.asdict(self)


def _changed(name: str, part: Any, but: tuple[str, ...] = ()) -> list[str]:
    """Dotted paths of a part's values that are not the defaults."""
    plain = type(part)()
    fields = (f.name for f in dataclasses.fields(part) if f.name not in but)
    return [f"{name}.{field}" for field in fields if getattr(part, field) != getattr(plain, field)]


def config_paths() -> dict[str, Any]:
    """Every settable dotted path, such as `optim.matrix_lr`, with its type."""
    paths: dict[str, Any] = {}
    for name, part in typing.get_type_hints(TrainConfig).items():
        for key, hint in typing.get_type_hints(part).items():
            paths[f"{name}.{key}"] = hint
    return paths
