"""What of a config decides how fast it trains: the shape of model and batch.  Rates, decay and seeds do not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sweeper.space import Value
from sweeper.study import StudySpec
from trainer.config import HelixConfig, ModelConfig, TrainConfig, topology_of

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
HELIX_FAMILY = "helix"
"""With it the options of a helix begin."""
HELIX_OPTIONS = (
    "num_columns",
    "attention",
    "full_attention_interval",
    "linear_feature_dim",
    "act",
    "rope",
    "root_bypass",
    "z_norm",
    "merge_norm",
    "gate_fix",
)
"""The same of HelixConfig; its graph is told by the beginning of its hash, and of dropout whether there is any."""
HELIX = (
    *(f"helix.{name}" for name in (*HELIX_OPTIONS, "dropout", "d_model", "num_heads", "num_loops", "ffn_multiple")),
    *(f"helix.{name}" for name in ("lateral_p", "vertical_p", "vertical_depth")),
    "seeds.topology",
)
"""Paths that decide the shape of a helix."""
MODEL = ("num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_mult", "vocab_size", "tie_embeddings")
DATA = ("seq_len", "batch_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Fields of ModelConfig and DataConfig, by their names there; of a helix the nearest to them: loops for layers."""

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
        unit = "loop" if self.options.startswith(HELIX_FAMILY) else "layer"
        depth = f"{self.num_layers} {unit}{'s' if self.num_layers != 1 else ''}"
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
    if built.model.family == "helix":
        return _helix_shape(built)
    on = [name for name in OPTIONS if getattr(built.model, name) != getattr(plain, name)]
    return Shape(
        **{name: getattr(built.model, name) for name in MODEL},
        **{name: getattr(built.data, name) for name in DATA},
        options=", ".join(f"{name} {getattr(built.model, name)}" for name in on),
    )


def _helix_shape(config: TrainConfig) -> Shape:
    helix, plain = config.helix, HelixConfig()
    options = [f"{HELIX_FAMILY}, graph {topology_of(helix, config.seeds.topology).hash[:12]}"]
    options += [
        f"{name} {getattr(helix, name)}" for name in HELIX_OPTIONS if getattr(helix, name) != getattr(plain, name)
    ]
    return Shape(
        num_layers=helix.num_loops,
        model_dim=helix.d_model,
        num_heads=helix.num_heads,
        num_kv_heads=helix.num_heads,
        mlp_mult=helix.ffn_multiple,
        vocab_size=config.model.vocab_size,
        tie_embeddings=True,
        **{name: getattr(config.data, name) for name in DATA},
        options=", ".join((*options, *(() if helix.dropout else ("no dropout",)))),
    )


def configs(spec: StudySpec) -> dict[Shape, dict[str, Any]]:
    """A config of the study for each shape that its space holds: of a long axis its ends alone, and of axes
    that are no part of a shape the low end.  None of a study with a command: its script decides."""
    if spec.trainer is not None:
        return {}
    shaped = {*(f"model.{name}" for name in (*MODEL, *OPTIONS)), *(f"data.{name}" for name in DATA), *HELIX}
    choices: list[list[tuple[str, Value]]] = []
    for path, axis in spec.space.items():
        samples = axis.samples()
        decides = path in shaped or any(tied in shaped for tied in axis.tie)
        choices.append([(path, value) for value in (samples if decides else samples[:1])])
    made = [spec.config(dict(combination)) for combination in itertools.product(*choices)]
    return {shape_of(config): config for config in made}
