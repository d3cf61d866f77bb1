"""Which column, parameter or line of a log is which config path, or which figure of a run.  Pure.

What is known without being told: config paths as they are, the names of parameter-golf's environment variables in
either case, and the last part of a path of [model] or [optim] where its unit leaves no doubt.  Everything else is
used only where a mapping names it, and is listed as unused otherwise.
"""

from __future__ import annotations

import functools
import math
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from sweeper import command
from sweeper.command import KNOB
from sweeper.space import Value
from trainer.config import config_paths

Role = Literal[
    "score", "val_loss", "train_loss", "tokens", "steps", "seconds", "wall_seconds", "state", "name", "id", "created",
    "parameters", "flops", "device_name",
]  # fmt: skip
"""Figures of a run beside its hyperparameters.  `score` is val_bpb, in bits per byte; `seconds` are of training."""

ROLES: dict[str, tuple[str, ...]] = {
    "score": ("score", "final_val_bpb", "val_bpb", "val/bpb", "eval/val_bpb", "final/val_bpb", "value", "values_0"),
    "val_loss": ("val_loss", "val/loss", "eval/val_loss", "final/val_loss"),
    "train_loss": ("train_loss", "train/loss"),
    "tokens": ("tokens", "total_tokens", "tokens_seen", "train/tokens"),
    "steps": ("steps", "step", "_step"),
    "seconds": ("seconds", "train_seconds", "training_seconds"),
    "wall_seconds": ("wall_seconds", "runtime", "_runtime", "duration"),
    "state": ("state", "status"),
    "name": ("name", "run_name", "run_id"),
    "id": ("id", "number"),
    "created": ("created", "created_at", "datetime_start", "started_at", "_timestamp"),
    "parameters": ("parameters", "model_params"),
    "flops": (),  # of training in all, where others count those of a token or a second: only where it is mapped
    "device_name": ("device_name", "gpu"),
}
"""Column names that are known without a mapping, in lower case; of several that are there the first counts."""
UNITS = {
    "score": "bits per byte, val_bpb",
    "val_loss": "nats per token",
    "train_loss": "nats per token",
    "tokens": "tokens trained on",
    "steps": "optimiser steps",
    "seconds": "seconds of training",
    "wall_seconds": "seconds",
    "flops": "FLOPs of training, 6 × parameters × tokens",
    "data.batch_tokens": "tokens a step",
    "data.seq_len": "tokens a sequence",
}
"""What a figure or a value counts."""
IGNORED = "-"
"""A mapping to this leaves the column out, and out of the list of unused ones."""
PREFIXES = ("config.", "config/", "params.", "params_", "summary.", "user_attrs_", "user_attrs.")
LARGEST_INT = 2**53
"""Optuna keeps whole numbers as floats."""
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d*)?")
NOT_BY_LAST_PART = {"momentum_warmup", "ema_window", "swa_below", "swa_every", "family", "average"}
"""Ours are shares of the budget where others count steps, or words that others use differently."""


def split(target: str) -> tuple[str, float]:
    """Config path, knob, role or `-` of a mapping's target, and what its column is multiplied by.

    `data.batch_tokens*1024` takes sequences of 1,024 tokens, `score*1.4427/4.5` nats per token of 4.5 bytes.

    Raises:
        ValueError: a factor that is not a positive number.
    """
    path, *rest = re.split(r"([*/])", target)
    factor = 1.0
    for sign, text in zip(rest[::2], rest[1::2], strict=True):
        value = number(text)
        if value <= 0:
            raise ValueError(f"a factor must be positive, got {text!r}")
        factor = factor * value if sign == "*" else factor / value
    return path.strip(), factor


def scaled(raw: Any, factor: float) -> Any:
    """The cell times the factor, whole where that is what rounding hid; as it is where the factor is 1.

    Raises:
        ValueError: it is no finite number, and would have to be multiplied.
    """
    if factor == 1:
        return raw
    value = number(raw) * factor
    return round(value) if math.isclose(value, round(value), rel_tol=1e-12) else value


class Names:
    """Finds what a column means, mapping first."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        """
        Args:
            columns: what a mapping says, factors included.
        """
        targets = {column: split(target) for column, target in columns.items()}
        self._columns = {column: path for column, (path, _) in targets.items()}
        self._factors = {column: factor for column, (_, factor) in targets.items()}
        self._known = known_paths()

    def factor(self, column: str) -> float:
        """What the mapping multiplies the column by."""
        return self._factors.get(column, self._factors.get(strip(column), 1.0))

    def target(self, column: str) -> str | None:
        """Config path, knob, role or `-`; None where nobody said and nothing is known."""
        if column in self._columns:
            return self._columns[column]
        bare = strip(column)
        if bare in self._columns:
            return self._columns[bare]
        if bare in paths() or (bare.startswith(KNOB) and bare.removeprefix(KNOB).isidentifier()):
            return bare
        if path := self._known.get(bare.lower()):
            return path
        role = next((role for role, names in ROLES.items() if bare.lower() in names), None)
        if role is None and column.startswith("params_") and bare.isidentifier():
            return f"{KNOB}{bare}"  # Optuna says that it was searched
        return role

    def mapped(self, column: str) -> bool:
        """Whether the mapping names it."""
        return column in self._columns or strip(column) in self._columns

    def missing(self, columns: Collection[str]) -> list[str]:
        """Columns that the mapping names and these are not, but for those to be ignored."""
        there = {*columns, *map(strip, columns)}
        return [column for column, target in self._columns.items() if target != IGNORED and column not in there]

    def choose(self, columns: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Which of these columns is used for what: column by target, and the unused ones.

        Of several for one target a mapped one counts, else the one that stands first in ROLES, else the first.
        """
        chosen: dict[str, tuple[int, int, str]] = {}
        unused: list[str] = []
        for place, column in enumerate(columns):
            target = self.target(column)
            if target == IGNORED:
                continue
            if target is None:
                unused.append(column)
                continue
            order = ROLES.get(target, ())
            bare = strip(column).lower()
            rank = -1 if self.mapped(column) else (order.index(bare) if bare in order else 0)
            if target not in chosen or (rank, place) < chosen[target][:2]:
                if target in chosen:
                    unused.append(chosen[target][2])
                chosen[target] = (rank, place, column)
            else:
                unused.append(column)
        return {target: column for target, (_, _, column) in chosen.items()}, unused


@functools.cache
def paths() -> dict[str, Any]:
    """Types by config path, worked out once: it takes a millisecond, and every value asks."""
    return config_paths()


def strip(column: str) -> str:
    """The column without the prefix that W&B or Optuna gives it."""
    for prefix in PREFIXES:
        if column.startswith(prefix) and len(column) > len(prefix):
            return column[len(prefix) :].removesuffix(".value")
    return column


@functools.cache
def known_paths() -> dict[str, str]:
    """Config paths by names that need no mapping, in lower case."""
    known = {
        path.partition(".")[2]: path
        for path in paths()
        if path.startswith(("model.", "optim.")) and path.partition(".")[2] not in NOT_BY_LAST_PART
    }
    known |= {"batch_tokens": "data.batch_tokens", "seq_len": "data.seq_len"}
    named = {name.lower(): path for path, name in command.NAMES.items() if path in paths()}
    return known | named | {"embed_lr": "optim.embed_lr"}


def convert(path: str, raw: Any) -> Value:
    """The value as the config path has it; of a knob, number or truth where it reads as one.

    Raises:
        ValueError: it does not parse, or is not finite.
    """
    hint = paths().get(path)
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if hint is str or typing.get_origin(hint) is Literal:
        return str(raw)
    if hint is bool:
        return truth(raw)
    if hint is None:
        return _guess(raw)
    value = number(raw)
    if hint is int:
        if value != int(value):
            raise ValueError(f"{path} takes a whole number, got {raw!r}")
        if abs(value) > LARGEST_INT:
            raise ValueError(f"{path} is out of range: {raw!r}")
        return int(value)
    return value


def number(raw: Any) -> float:
    """A finite number.

    Raises:
        ValueError: it is none.
    """
    if isinstance(raw, bool):
        raise ValueError(f"expected a number, got {raw!r}")
    try:
        text = str(raw).strip()
        value = float(text.replace(",", "") if _THOUSANDS.fullmatch(text) else text)
    except ValueError:
        raise ValueError(f"expected a number, got {raw!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {raw!r}")
    return value


def truth(raw: Any) -> bool:
    """
    Raises:
        ValueError: neither true nor false, in any case, nor 1 nor 0.
    """
    text = str(raw).strip().lower()
    if text in ("true", "1", "1.0", "yes"):
        return True
    if text in ("false", "0", "0.0", "no"):
        return False
    raise ValueError(f"expected true or false, got {raw!r}")


def _guess(raw: Any) -> Value:
    if isinstance(raw, bool):
        return raw
    if str(raw).strip().lower() in ("true", "false"):
        return truth(raw)
    try:
        float(str(raw))
    except ValueError:
        return str(raw)
    value = number(raw)
    whole = value.is_integer() and not any(mark in str(raw).lower() for mark in ".e")
    if whole and abs(value) > LARGEST_INT:
        raise ValueError(f"out of range: {raw!r}")
    return int(value) if whole else value
