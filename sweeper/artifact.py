"""How large the artifact of a config will be, from the shapes of its weights: no tensor is made.

Packed bytes are exact, the same for any values, and the codec adds next to nothing where it finds nothing: they bound
the artifact from above. What the codec saves depends on the values, and only training tells. The public logs of this
family give the range of RATIOS: 0.72 for 7 layers with decay after 4,781 steps, 0.75 for the stock model after some
1,500, 0.78 for mixed int6 and int8, 0.93 for the stock model after 13,780 (https://github.com/openai/parameter-golf,
records of March and April 2026; our division). Six bits packed four in three bytes leave the codec less: 0.94 here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.scores import exports
from sweeper.space import Value
from sweeper.study import StudySpec
from trainer.config import ModelConfig, TrainConfig, helix_shapes, packed_bytes

RATIOS = (0.7, 0.95)
"""Compressed by packed bytes of trained models, rounded outwards."""
LEAST_RATIO = 0.5
"""Below it we know of no trained model: half of it is zeros, or it has not been trained."""
OVERHEAD = 1.001, 65_536
"""Factor and bytes that codec and names can add to the packed weights."""
MEGA = 1e6
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Of one config."""

    parameters: int
    packed: int
    """Bytes of the weights before compression."""
    pruned: float = 0.0
    """Share of the weights that is set to zero on the way, and costs next to nothing."""

    @property
    def most(self) -> int:
        """Bytes that the artifact will not exceed, code aside."""
        factor, rest = OVERHEAD
        return int(self.packed * factor) + rest

    def keeps(self, limit: int) -> bool:
        """Whether the artifact is sure to keep the limit, code aside."""
        return self.most <= limit

    def breaks(self, limit: int) -> bool:
        """Whether no trained model of this shape is known to compress so far."""
        return self.packed * LEAST_RATIO * (1 - self.pruned) > limit


def shapes(model: ModelConfig) -> Shapes:
    """Every weight by its name in the model: what GPT(model).named_parameters() would have."""
    dim, kv_dim = model.model_dim, model.num_kv_heads * model.head_dim
    found: Shapes = {"embedding.weight": (model.vocab_size, dim)}
    if not model.tie_embeddings:
        found["lm_head.weight"] = (model.vocab_size, dim)
    if model.bigram_buckets:
        found["stem.bigram.table.weight"] = (model.bigram_buckets, model.bigram_dim)
        found["stem.bigram.projection.weight"] = (dim, model.bigram_dim)
        found["stem.bigram.scale"] = ()
    if model.smear_gate:
        found["stem.smear_gate"] = (dim,)
    found["skip_weights"] = (len(model.block_order) // 2, dim)
    block: Shapes = {
        "resid_mix": (2, dim),
        "attn_scale": (dim,),
        "mlp_scale": (dim,),
        "attention.q_gain": (model.num_heads,),
        "attention.q_proj.weight": (dim, dim),
        "attention.k_proj.weight": (kv_dim, dim),
        "attention.v_proj.weight": (kv_dim, dim),
        "attention.out_proj.weight": (dim, dim),
        "mlp.fc.weight": (model.mlp_hidden, dim),
        "mlp.proj.weight": (dim, model.mlp_hidden),
    }
    if model.mlp_activation == "swiglu":
        block["mlp.gate.weight"] = (model.mlp_hidden, dim)
    for layer in range(model.num_layers):
        lanes: Shapes = {"lane_mix": (2, 3)} if layer >= model.num_layers - model.parallel_last_layers else {}
        found |= {f"blocks.{layer}.{name}": shape for name, shape in (block | lanes).items()}
    return found


def estimate(config: Mapping[str, Any]) -> Estimate:
    """The artifact of a run with this config, given as nested values, which exports something.

    Raises:
        ConfigError: the values are no TrainConfig.
    """
    built = TrainConfig.from_dict(dict(config))
    if built.model.family == "helix":
        weights = helix_shapes(built.helix, built.model.vocab_size, built.seeds.topology)
    else:
        weights = shapes(built.model)
    parameters = sum(math.prod(shape) for shape in weights.values())
    packed = packed_bytes(weights, built.export)
    return Estimate(parameters=parameters, packed=packed, pruned=built.export.prune)


def lines(spec: StudySpec) -> list[str]:
    """What the study's limit on the artifact means for its space, before a trial runs; nothing without one."""
    limit = spec.constraints.artifact_bytes
    if limit is None or spec.trainer is not None:
        return []
    found = [(words, estimate(config)) for words, config in _corners(spec) if exports(config)]
    if not found:
        return []
    found.sort(key=lambda pair: pair[1].packed)
    (least, small), (most, large) = found[0], found[-1]
    low, high = (small.packed * RATIOS[0] / MEGA, large.packed * RATIOS[1] / MEGA)
    ends = _size(small, least) if small == large else f"{_size(small, least)} to {_size(large, most)}"
    told = (
        f"artifact: {ends} packed, which bounds it from above; runs of this family were then compressed to "
        f"{RATIOS[0]:.0%} to {RATIOS[1]:.0%}, here {low:.1f} to {high:.1f} MB"
    )
    code = ", code aside" if spec.base.get("export", {}).get("code") else ""
    return [told, f"limit of {limit / MEGA:.2f} MB{code}: {_verdict(found, limit)}"]


def _verdict(found: list[tuple[str, Estimate]], limit: int) -> str:
    """Which part of the space keeps the limit for sure, and which breaks it; `found` ascends in size."""
    keep = [words for words, size in found if size.keeps(limit)]
    broken = [words for words, size in found if size.breaks(limit)]
    if len(keep) == len(found):
        return "every trial keeps it"
    if len(broken) == len(found):
        return "every trial will break it: change the space or the limit"
    parts = []
    if keep:
        parts.append(f"sure to be kept up to {keep[-1]}")
    if broken:
        parts.append(f"sure to be broken from {broken[0]} on")
    if len(keep) + len(broken) < len(found):
        parts.append(f"training decides {'the rest' if parts else 'everywhere'}")
    return "; ".join(parts)


def _size(size: Estimate, words: str) -> str:
    return f"{size.packed / MEGA:.2f} MB" + (f" ({words})" if words else "")


def _corners(spec: StudySpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """A config for each size that the space holds, of long axes their ends alone, and in words what it is."""
    low: dict[str, Value] = {path: axis.samples()[0] for path, axis in spec.space.items()}
    choices: dict[str, list[Value]] = {}
    for path, axis in spec.space.items():
        configs = [spec.config(low | {path: value}) for value in axis.samples()]
        if len({(exports(config), estimate(config).packed) for config in configs}) > 1:
            choices[path] = axis.samples()
    for combination in itertools.product(*choices.values()):
        varied = dict(zip(choices, combination, strict=True))
        words = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in varied.items())
        yield words, spec.config(low | varied)
