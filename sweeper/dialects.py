"""What a line of a training log means: the parameter-golf baseline's format, its forks' and modded-nanogpt's.  Pure.

A log may begin with the whole source of its script, in which the same text stands as templates, and several
processes may write into it at once.  So a line counts only from its first character on, only with numbers
where numbers belong, and what is said twice in it counts once.  Everything else is no concern of ours: `parse`
gives nothing for it, and never fails.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """A sample of the training loss."""

    step: int
    total: int
    """Steps that the script would make without a cap on its time."""
    loss: float
    """nan and inf as they were printed."""
    seconds: float | None
    """Training seconds so far; None where the line does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """A validation on the way, or at the end, before quantisation."""

    step: int
    total: int
    val_loss: float
    val_bpb: float
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationLoss:
    """A validation of a script that says nats per token alone, as modded-nanogpt's do."""

    step: int
    total: int
    val_loss: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaged:
    """The validation of averaged weights at the end, before quantisation: it replaces the last Validation."""

    val_loss: float | None
    val_bpb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """A score after the end of training."""

    label: str
    """As printed, such as `final_int8_zlib_roundtrip`, without `_exact`."""
    kind: str
    """`sliding`, `quantised`, `quantised_sliding`, or empty for one that is neither."""
    exact: bool
    """Printed with all its digits, and therefore to be believed over the rounded line beside it."""
    val_loss: float | None
    val_bpb: float
    eval_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Bytes of the compressed model (`model`), or of model and code together (`total`)."""

    what: str
    scheme: str
    """`int8`, `int6`, `mixed_quant`, …"""
    codec: str
    """`zlib`, `zstd`, …; empty where it is not said."""
    bytes: int
    payload_bytes: int
    """Before compression; 0 where it is not said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something about the run: one of FACTS, and its number."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CapReached:
    """The script says that its time is up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something that changed in the run, such as the start of weight averaging."""

    text: str


Said = Train | Validation | ValidationLoss | Averaged | Final | Size | Fact | CapReached | Remark

FACTS = (
    "model_params",
    "world_size",
    "grad_accum_steps",
    "train_batch_tokens",
    "max_wallclock_seconds",
    "val_tokens",
    "code_bytes",
    "peak_memory_mib",
)
LONGEST_REMARK = 300
_MOST_DIGITS = 12

_RANK = re.compile(r"\[(?:rank|default)? ?\d+\]:? ?")
_PROGRESS = re.compile(rf"(?:step:)?(\d{{1,{_MOST_DIGITS}}})/(\d{{1,{_MOST_DIGITS}}}) +(?=(?:val_|train_)?loss:)")
_PAIR = re.compile(r"(?<![\w/])([A-Za-z_]\w*):[ \t]?(\S+)")
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan|inf)", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|min|h)")
_MILLISECONDS = {"ms": 1.0, "s": 1000.0, "m": 60_000.0, "min": 60_000.0, "h": 3_600_000.0}
_AVERAGED = re.compile(r"(?:pre-quantization post-ema|DIAGNOSTIC post_ema) +(?=val_)", re.IGNORECASE)
_FINAL = re.compile(r"((?:final|quantized)_[\w.+-]+) +(?=val_(?:loss|bpb):)")
_REMARK = re.compile(r"(?:swa|ema|qat|late_qat):(?:start|enabled)\b")
_FACT = re.compile(r"\s*(" + "|".join(FACTS[:5]) + r"):")
_VAL_TOKENS = re.compile(r"val_loader:\S.* tokens:(\d{1,18})\b")
_PEAK = re.compile(r"peak memory allocated: (\d{1,12}) MiB\b")
_TOTAL_SIZE = re.compile(r"Total submission size (\S+): (\d{1,18}) bytes\b")
_MODEL_SIZE = re.compile(r"Serialized model (\S+): (\d{1,18}) bytes(?: \(payload:(\d{1,18})\b)?")
_CODE_SIZE = re.compile(r"Code size: (\d{1,18}) bytes\b")


def parse(line: str) -> list[Said]:
    """What the line says; nothing for most lines."""
    rank = _RANK.match(line)
    text = line[rank.end() :] if rank else line
    if match := _PROGRESS.match(text):
        return _progress(match, _pairs(text))
    if match := _AVERAGED.match(text):
        val_bpb, val_loss = (_number(_pairs(text).get(name)) for name in ("val_bpb", "val_loss"))
        return [Averaged(val_loss=val_loss, val_bpb=val_bpb)] if val_bpb is not None else []
    if match := _FINAL.match(text):
        return _final(match.group(1), _pairs(text))
    if text.startswith("stopping_early:"):
        return [CapReached()]
    if _REMARK.match(text):
        return [Remark(text=text.strip()[:LONGEST_REMARK])]
    if _FACT.match(text):
        return _facts(_pairs(text))
    return [*_sizes(text), *_other_facts(text)]


def _progress(match: re.Match[str], pairs: dict[str, str]) -> list[Said]:
    step, total = int(match.group(1)), int(match.group(2))
    if total < 1:
        return []
    seconds = _duration(pairs.get("train_time") or pairs.get("t"))
    if "val_loss" in pairs:
        val_loss, val_bpb = _number(pairs["val_loss"]), _number(pairs.get("val_bpb"))
        if val_loss is not None and "val_bpb" not in pairs and seconds is not None:  # else the line may be cut off
            return [ValidationLoss(step=step, total=total, val_loss=val_loss, seconds=seconds)]
        if val_loss is None or val_bpb is None:
            return []
        return [Validation(step=step, total=total, val_loss=val_loss, val_bpb=val_bpb, seconds=seconds)]
    loss = _number(pairs.get("train_loss") or pairs.get("loss"))
    return [] if loss is None else [Train(step=step, total=total, loss=loss, seconds=seconds)]


def _final(label: str, pairs: dict[str, str]) -> list[Said]:
    val_bpb = _number(pairs.get("val_bpb"))
    if val_bpb is None:
        return []
    return [
        Final(
            label=label.removesuffix("_exact"),
            kind=_kind(label),
            exact=label.endswith("_exact"),
            val_loss=_number(pairs.get("val_loss")),
            val_bpb=val_bpb,
            eval_seconds=_duration(pairs.get("eval_time")) or 0.0,
        )
    ]


def _kind(label: str) -> str:
    if "ttt" in label:
        return ""  # weights that were trained on the validation text: another score altogether
    sliding = "sliding" in label
    quantised = re.search(r"roundtrip|quant|int\d", label) is not None
    return {(True, True): "quantised_sliding", (True, False): "sliding", (False, True): "quantised"}.get(
        (sliding, quantised), ""
    )


def _facts(pairs: dict[str, str]) -> list[Said]:
    found: list[Said] = []
    for name in FACTS[:5]:
        value = _number(pairs.get(name))
        if value is not None and math.isfinite(value):
            found.append(Fact(name=name, value=value))
    return found


def _other_facts(text: str) -> list[Said]:
    found: list[Said] = []
    for name, pattern in (("val_tokens", _VAL_TOKENS), ("peak_memory_mib", _PEAK), ("code_bytes", _CODE_SIZE)):
        if match := pattern.match(text):
            found.append(Fact(name=name, value=int(match.group(1))))
    return found


def _sizes(text: str) -> list[Said]:
    for what, pattern in (("total", _TOTAL_SIZE), ("model", _MODEL_SIZE)):
        if match := pattern.match(text):
            scheme, _, codec = match.group(1).partition("+")
            payload = int(match.group(3) or 0) if what == "model" else 0
            return [Size(what=what, scheme=scheme, codec=codec, bytes=int(match.group(2)), payload_bytes=payload)]
    return []


def _pairs(text: str) -> dict[str, str]:
    """`name:value` and `name: value` pairs, the first of each name."""
    found: dict[str, str] = {}
    for match in _PAIR.finditer(text):
        found.setdefault(match.group(1), match.group(2))
    return found


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None


def _duration(text: str | None) -> float | None:
    """Seconds; None for a duration without a unit, which could be anything."""
    match = _DURATION.fullmatch(text or "")
    return float(match.group(1)) * _MILLISECONDS[match.group(2)] / 1000 if match else None
