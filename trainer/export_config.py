"""What the trained weights become: ExportConfig, which tensor takes which form, and its bytes.  Standard library only.

The forms are those of the public parameter-golf records: int8 of the baseline, int6 of the mixed schemes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.values import require

Form = Literal["fp32", "fp16", "int8", "int6"]
"""How the values of one tensor are stored; an integer form has one fp16 scale a row beside them."""

LARGE = 65_536
"""Tensors of more elements than this take 8 bits a value."""
CONTROL = ("resid_mix", "skip_weights", "lane_mix")
"""Names of scales and mixes that have two dimensions all the same; those of fewer are known by that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """The artifact, scored after the round trip through it. Rungs never see it: they score the trained weights."""

    scheme: Literal["off", "int8", "int6_int8"] = "off"
    """`int8`: 8 bits for tensors of more than 65,536 elements, fp16 for smaller ones, fp32 for scales and mixes.
    `int6_int8`: of these, the matrices of attention and MLP in 6 bits, four values in three bytes, at any size."""
    codec: Literal["zlib", "zstd"] = "zlib"
    """What packs it, each at its strongest: zlib 9 or zstd 22."""
    clip: Literal["percentile", "least_error"] = "percentile"
    """Of |w| in each row: the 99.99984th percentile, or that of five from the 99.9th to the largest with the least
    squared error."""
    least_clip: float = 1.0
    """Smallest clip of a row of 8 bits: rows whose weights are all smaller are rounded to 1/127 all the same. The
    baseline does so, which is why decay and short runs make its artifacts smaller; 0 gives every row its own range."""
    fp16_embedding: bool = False
    """Keep the token embedding in fp16, whatever its size."""
    prune: float = 0.0
    """Share of each matrix of the blocks, its smallest |w|, that is set to zero before it is quantised."""
    qat_from: float = 1.0
    """Share of the budget from which each step's forward and backward pass see the quantised weights, and the gradient
    there moves the full ones (straight-through); 1 is never, 0 from the start."""
    path: str = ""
    """File to write the artifact to; empty writes none."""
    code: str = ""
    """A file, or a folder of Python files, whose bytes count as part of the artifact; `trainer` stands for this
    trainer's own code of model and artifact, empty for none."""

    def __post_init__(self) -> None:
        require(self.least_clip >= 0, f"export.least_clip must not be negative, got {self.least_clip}")
        require(0 <= self.prune < 1, f"export.prune must be in [0, 1), got {self.prune}")
        require(0 <= self.qat_from <= 1, f"export.qat_from must be in [0, 1], got {self.qat_from}")
        require(
            self.scheme != "off" or self.qat_from == 1,
            f"export.qat_from is {self.qat_from}, but export.scheme is 'off': there is nothing to round to; "
            "choose a scheme, or leave qat_from at 1",
        )


def forms(shapes: Mapping[str, tuple[int, ...]], config: ExportConfig) -> dict[str, Form]:
    """The form of each tensor, by its name in the model and its shape."""
    return {name: _form(name, shape, config) for name, shape in shapes.items()}


def _form(name: str, shape: tuple[int, ...], config: ExportConfig) -> Form:
    if len(shape) < 2 or name.rpartition(".")[2] in CONTROL:
        return "fp32"
    if config.fp16_embedding and name == "embedding.weight":
        return "fp16"
    if config.scheme == "int6_int8" and name.startswith("blocks.") and (".attention." in name or ".mlp." in name):
        return "int6"
    return "int8" if math.prod(shape) > LARGE else "fp16"


def packed_bytes(shapes: Mapping[str, tuple[int, ...]], config: ExportConfig) -> int:
    """Bytes of the packed weights before compression: the same for any values."""
    return sum(stored_bytes(shapes[name], form) for name, form in forms(shapes, config).items())


def stored_bytes(shape: tuple[int, ...], form: Form) -> int:
    """Bytes of one tensor; a row is what lies along its last axis."""
    values, rows = math.prod(shape), math.prod(shape[:-1])
    match form:
        case "fp32":
            return 4 * values
        case "fp16":
            return 2 * values
        case "int8":
            return values + 2 * rows
        case "int6":
            return 3 * math.ceil(values / 4) + 2 * rows
