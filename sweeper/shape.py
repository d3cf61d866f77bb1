"""What of a config decides how fast it trains: the shape of model and batch.  Rates, decay and seeds do not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sweeper.space import Value
from sweeper.study import StudySpec
from trainer.config import ModelConfig, TrainConfig

OPTIONS = (
    "mlp_activation",
    "rope_dims",
    "bigram_buckets",
    "bigram_dim",
    "smear_gate",
    "xsa_last_layers",
    "layer_norm_scale",
    "loop_first",
    "loop_blocks",
    "loop_times",
    "parallel_last_layers",
)
"""Of ModelConfig, off by default: one field of a Shape holds those that are on."""
MODEL = ("num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_mult", "vocab_size", "tie_embeddings")
DATA = ("seq_len", "batch_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Fields of ModelConfig and DataConfig, by their names there."""

    num_layers: int
    model_dim: int
    num_heads: int
    num_kv_heads: int
    mlp_mult: float
    vocab_size: int
    tie_embeddings: bool
    seq_len: int
    batch_tokens: int
    options: str = ""
    """Such as `rope_dims 32, smear_gate True`."""

    def words(self, others: list[Shape]) -> str:
        """What tells it from `others`, such as `4 layers, batch 8,192`."""
        depth = f"{self.num_layers} layer{'s' if self.num_layers != 1 else ''}"
        named = {
            "num_layers": depth,
            "model_dim": f"width {self.model_dim}",
            "batch_tokens": f"batch {self.batch_tokens:,}",
            "options": self.options or "no options",
        }
        told = [field.name for field in fields(self) if len({getattr(shape, field.name) for shape in others}) > 1]
        return ", ".join(
            named.get(name, f"{name} {getattr(self, name)}") for name in told or ("num_layers", "batch_tokens")
        )


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape of a run with this config, given as nested values.

    Raises:
        ConfigError: the values are no TrainConfig.
    """
    built, plain = TrainConfig.from_dict(dict(config)), ModelConfig()
    on = [name for name in OPTIONS if getattr(built.model, name) != getattr(plain, name)]
    return Shape(
        **{name: getattr(built.model, name) for name in MODEL},
        **{name: getattr(built.data, name) for name in DATA},
        options=", ".join(f"{name} {getattr(built.model, name)}" for name in on),
    )


def configs(spec: StudySpec) -> dict[Shape, dict[str, Any]]:
    """A config of the study for each shape that its space holds: of a long axis its ends alone, and of axes
    that are no part of a shape the low end.  None of a study with a command: its script decides."""
    if spec.trainer is not None:
        return {}
    shaped = {*(f"model.{name}" for name in (*MODEL, *OPTIONS)), *(f"data.{name}" for name in DATA)}
    choices: list[list[tuple[str, Value]]] = []
    for path, axis in spec.space.items():
        samples = axis.samples()
        decides = path in shaped or any(tied in shaped for tied in axis.tie)
        choices.append([(path, value) for value in (samples if decides else samples[:1])])
    made = [spec.config(dict(combination)) for combination in itertools.product(*choices)]
    return {shape_of(config): config for config in made}
