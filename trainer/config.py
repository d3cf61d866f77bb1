"""What a run is: TrainConfig and its parts, frozen, checked where they are built.  Standard library only.

Defaults are those of the public parameter-golf baseline, except where a comment gives a reason.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.export_config import ExportConfig as ExportConfig
from trainer.export_config import packed_bytes as packed_bytes
from trainer.model_config import ModelConfig as ModelConfig
from trainer.optim_config import OptimConfig as OptimConfig
from trainer.optim_config import ScheduleConfig as ScheduleConfig
from trainer.values import ConfigError as ConfigError
from trainer.values import build, require


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which tokens, and how many a step."""

    path: str = ""
    """Folder that `sweeper data prepare` wrote: train and val shards, token_bytes.npy, manifest.json."""
    seq_len: int = 1024
    """Tokens a sequence."""
    batch_tokens: int = 524_288
    """Tokens per optimiser step; a multiple of seq_len."""
    micro_batch_tokens: int = 0
    """Most tokens of one forward and backward pass; 0 chooses by device. Accumulation makes up the rest."""

    def __post_init__(self) -> None:
        require(self.seq_len >= 1, f"data.seq_len must be at least 1, got {self.seq_len}")
        require(
            self.batch_tokens >= self.seq_len and self.batch_tokens % self.seq_len == 0,
            f"data.batch_tokens must be a positive multiple of data.seq_len ({self.seq_len}), got {self.batch_tokens}",
        )
        require(
            self.micro_batch_tokens == 0 or self.micro_batch_tokens >= self.seq_len,
            f"data.micro_batch_tokens must be 0 (choose) or at least data.seq_len ({self.seq_len}), "
            f"got {self.micro_batch_tokens}",
        )


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
    by_document: bool = False
    """Whether every validation keeps documents apart: none sees the one before it, as each has windows of its own. It
    costs up to a window more for every document."""

    def __post_init__(self) -> None:
        require(
            all(0 < share < 1 for share in self.fractions)
            and all(a < b for a, b in zip(self.fractions, self.fractions[1:], strict=False)),
            f"eval.fractions must be ascending shares in (0, 1), got {list(self.fractions)}",
        )
        for name in ("val_tokens", "final_val_tokens", "stride"):
            require(getattr(self, name) >= 0, f"eval.{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedConfig:
    """Initialisation and data order have numbers of their own, so that runs can be paired."""

    init: int = 1337
    data: int = 1337


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

    def __post_init__(self) -> None:
        require(self.every_seconds > 0, f"checkpoint.every_seconds must be positive, got {self.every_seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything a run is. `from_dict` is the only door for JSON: unknown keys are rejected by name."""

    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    data: DataConfig = field(default_factory=DataConfig)
    budget: BudgetConfig = field(default_factory=lambda: BudgetConfig(seconds=600.0))
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


def config_paths() -> dict[str, Any]:
    """Every settable dotted path, such as `optim.matrix_lr`, with its type."""
    paths: dict[str, Any] = {}
    for name, part in typing.get_type_hints(TrainConfig).items():
        for key, hint in typing.get_type_hints(part).items():
            paths[f"{name}.{key}"] = hint
    return paths
