"""Weights in few bits: rounded on the device, packed to an artifact of bytes, and back.  Shape key: R rows, C columns.

Each row of a tensor in an integer form has one step size, in fp16; its values are whole multiples of it, from
-127 to 127 or from -31 to 31. Training and artifact share the one rounding of this page.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.config import ConfigError, ExportConfig
from trainer.export_config import Form, forms, stored_bytes

LARGEST = {"int8": 127, "int6": 31}
"""Code of the integer forms; the smallest is its negative."""
PERCENTILE = 0.9999984
"""Of |w| in a row, where it is clipped (the baseline's)."""
SEARCHED = (1.0, 0.99999, 0.9999, 0.9995, 0.999)
"""Percentiles that `least_error` tries (those of the public records)."""
SMALLEST_STEP, LARGEST_STEP = 2.0**-24, 65504.0
"""What fp16 holds."""

MAGIC = {"zlib": b"swz1", "zstd": b"sws1"}
"""First bytes of an artifact, by codec. The rest is compressed: the length of a JSON header in four bytes,
little-endian as all that follows, the header ([name, shape, form] of each tensor), then the tensors in its order,
an integer form's step sizes before its codes."""
ZLIB_LEVEL, ZSTD_LEVEL = 9, 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Weights as bytes."""

    data: bytes
    raw_bytes: int
    """Packed weights before compression, without names and shapes; `packed_bytes` tells it beforehand."""


def check(config: ExportConfig) -> None:
    """Raise ConfigError where the export could not work, before anything is trained for it."""
    if config.scheme != "off" and config.codec == "zstd":
        _zstandard()
    code_bytes(config.code)
    if config.path and Path(config.path).is_dir():
        raise ConfigError(f"export.path must name a file, got the folder {config.path!r}; add a file name to it")


def code_bytes(code: str) -> int:
    """Bytes of the code that counts with the artifact, as `export.code` names it.

    Raises:
        ConfigError: there is no such file or folder.
    """
    if not code:
        return 0
    here = Path(__file__).parent
    if code == "trainer":
        parts = (here / name for name in ("quantize.py", "export_config.py", "model_config.py", "values.py"))
        return sum(path.stat().st_size for path in (*parts, *here.glob("models/*.py")))
    path = Path(code)
    if not path.exists():
        raise ConfigError(
            f"export.code is {code!r}, but there is no such file or folder here; use 'trainer' for its own"
        )
    return sum(file.stat().st_size for file in (path.rglob("*.py") if path.is_dir() else (path,)))


def round_trip(weights: list[Tensor], of_forms: list[Form], config: ExportConfig) -> list[Tensor]:
    """What `weights` in integer forms would come back as; on their device, without waiting for it.

    Rows of one width go through as one tensor, whichever weights they belong to.
    """
    by_width: dict[tuple[Form, int], list[int]] = defaultdict(list)
    for index, weight in enumerate(weights):
        by_width[of_forms[index], weight.size(-1)].append(index)
    results = list(weights)
    for (form, _), indices in by_width.items():
        each = [_rows(weights[index]) for index in indices]
        rows_RC = torch.cat(each)
        steps = step_sizes(rows_RC, form, config).float()
        parts = torch.split(_codes(rows_RC, steps, form).mul_(steps), [len(rows) for rows in each])
        for index, part in zip(indices, parts, strict=True):
            results[index] = part.view_as(weights[index])
    return results


def _rows(weight: Tensor) -> Tensor:
    return weight.reshape(math.prod(weight.shape[:-1]), weight.shape[-1])


def step_sizes(weights_RC: Tensor, form: Form, config: ExportConfig) -> Tensor:
    """(R, 1) step of each row in fp16, rounded up, so that what is not clipped is off by half a step at most."""
    magnitudes = weights_RC.abs()
    if config.clip == "percentile":
        return _step(_percentile(magnitudes, PERCENTILE), form, config)
    best = _step(_percentile(magnitudes, SEARCHED[0]), form, config)
    least = _squared_error(weights_RC, best, form)
    for percentile in SEARCHED[1:]:
        steps = _step(_percentile(magnitudes, percentile), form, config)
        error = _squared_error(weights_RC, steps, form)
        best = torch.where(error < least, steps, best)
        least = torch.minimum(error, least)
    return best


def _percentile(magnitudes_RC: Tensor, share: float) -> Tensor:
    """(R, 1) quantile of each row, on the line between its two neighbours; 0 of empty rows."""
    columns = magnitudes_RC.size(1)
    if not columns:
        return magnitudes_RC.new_zeros(len(magnitudes_RC), 1)
    position = share * (columns - 1)
    below = math.floor(position)
    top = magnitudes_RC.topk(columns - below, dim=1).values
    return torch.lerp(top[:, -1:], top[:, -2:-1] if columns - below > 1 else top[:, -1:], position - below)


def _step(clip_R1: Tensor, form: Form, config: ExportConfig) -> Tensor:
    floor = config.least_clip if form == "int8" else 0.0
    wanted = (clip_R1.clamp_min(floor) / LARGEST[form]).clamp(SMALLEST_STEP, LARGEST_STEP)
    nearest = wanted.half()
    # Positive halves are ordered as their bit patterns are: one more is the next larger.
    return (nearest.view(torch.int16) + (nearest.float() < wanted)).view(torch.float16)


def _codes(weights_RC: Tensor, steps_R1: Tensor, form: Form) -> Tensor:
    return (weights_RC / steps_R1).round_().clamp_(-LARGEST[form], LARGEST[form])


def _squared_error(weights_RC: Tensor, steps_R1: Tensor, form: Form) -> Tensor:
    steps = steps_R1.float()
    return (_codes(weights_RC, steps, form).mul_(steps) - weights_RC).square_().sum(1, keepdim=True)


def pruned(weights: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The weights, with the smallest |w| of each matrix of the blocks set to zero: `share` of it, rounded down."""
    chosen = forms({name: tuple(weight.shape) for name, weight in weights.items()}, ExportConfig(scheme="int8"))
    result = dict(weights)
    for name, weight in weights.items():
        count = int(share * weight.numel())
        if count and chosen[name] != "fp32" and name.startswith("blocks."):
            smallest = weight.abs().flatten().topk(count, largest=False).indices
            result[name] = weight.flatten().index_fill(0, smallest, 0.0).view_as(weight)
    return result


@torch.no_grad()
def encode(weights: Mapping[str, Tensor], config: ExportConfig) -> Artifact:
    """Prune, round, pack and compress named float32 weights.

    Raises:
        ConfigError: the codec is not installed.
    """
    weights = pruned(weights, config.prune)
    chosen = forms({name: tuple(weight.shape) for name, weight in weights.items()}, config)
    header = json.dumps([[name, list(weight.shape), chosen[name]] for name, weight in weights.items()]).encode()
    packed = [_pack(weight, chosen[name], config) for name, weight in weights.items()]
    body = b"".join((struct.pack("<I", len(header)), header, *packed))
    return Artifact(data=MAGIC[config.codec] + _compress(body, config.codec), raw_bytes=sum(map(len, packed)))


def decode(data: bytes) -> dict[str, Tensor]:
    """The weights of an artifact, float32 on the host.

    Raises:
        ValueError: these bytes are no artifact, or a damaged one.
        ConfigError: the codec is not installed.
    """
    body = _decompress(data)
    (length,) = struct.unpack_from("<I", body)
    weights: dict[str, Tensor] = {}
    begin = 4 + length
    for name, shape, form in json.loads(body[4:begin]):
        end = begin + stored_bytes(tuple(shape), form)
        weights[name] = _unpack(body[begin:end], tuple(shape), form)
        begin = end
    if begin != len(body):
        raise ValueError(f"an artifact of {len(body)} packed bytes, but its header tells of {begin}")
    return weights


def _pack(weight: Tensor, form: Form, config: ExportConfig) -> bytes:
    if form == "fp32":
        return weight.cpu().numpy().astype("<f4").tobytes()
    if form == "fp16":
        return weight.clamp(-LARGEST_STEP, LARGEST_STEP).cpu().numpy().astype("<f2").tobytes()
    rows_RC = _rows(weight)
    steps = step_sizes(rows_RC, form, config)
    codes = _codes(rows_RC, steps.float(), form).to(torch.int8).cpu().numpy()
    return steps.cpu().numpy().astype("<f2").tobytes() + (codes.tobytes() if form == "int8" else pack_six(codes))


def _unpack(data: bytes, shape: tuple[int, ...], form: Form) -> Tensor:
    if form in ("fp32", "fp16"):
        values = np.frombuffer(data, dtype="<f4" if form == "fp32" else "<f2").astype(np.float32)
        return torch.from_numpy(values).view(shape)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    steps = np.frombuffer(data[: 2 * rows], dtype="<f2").astype(np.float32)[:, None]
    rest = data[2 * rows :]
    codes = np.frombuffer(rest, dtype=np.int8) if form == "int8" else unpack_six(rest, rows * columns)
    return torch.from_numpy(codes.reshape(rows, columns).astype(np.float32) * steps).view(shape)


def pack_six(codes: npt.NDArray[np.int8]) -> bytes:
    """Codes from -32 to 31, four in three bytes; the last four are filled up with zeros."""
    values = (codes.reshape(-1) + 32).astype(np.uint8)
    a, b, c, d = np.pad(values, (0, -len(values) % 4)).reshape(-1, 4).T
    return np.stack((a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2), axis=1).astype(np.uint8).tobytes()


def unpack_six(data: bytes, count: int) -> npt.NDArray[np.int8]:
    """The first `count` codes of what `pack_six` made."""
    x, y, z = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3).T
    values = np.stack((x, x >> 6 | y << 2, y >> 4 | z << 4, z >> 2), axis=1) & 63
    return (values.reshape(-1)[:count].astype(np.int8) - 32).astype(np.int8)


def _compress(body: bytes, codec: str) -> bytes:
    if codec == "zlib":
        return zlib.compress(body, ZLIB_LEVEL)
    packed: bytes = _zstandard().ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(body)
    return packed


def _decompress(data: bytes) -> bytes:
    codec = next((codec for codec, magic in MAGIC.items() if data.startswith(magic)), "")
    if not codec:
        raise ValueError(f"an artifact begins with one of {sorted(MAGIC.values())}, got {data[:4]!r}")
    damaged = zlib.error if codec == "zlib" else _zstandard().ZstdError
    try:
        body: bytes = zlib.decompress(data[4:]) if codec == "zlib" else _zstandard().decompress(data[4:])
    except damaged as error:
        raise ValueError(f"the artifact of {len(data)} bytes is damaged ({error}); write it again") from error
    return body


def _zstandard() -> Any:
    try:
        import zstandard  # here: the trainer itself needs torch alone
    except ImportError as error:
        raise ConfigError(
            "the codec is 'zstd', but the package zstandard is not installed here; install it, "
            "or set export.codec to 'zlib'"
        ) from error
    return zstandard


def write(path: Path, data: bytes) -> None:
    """Write beside, flush to the disk, rename: what is at `path` is whole at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
