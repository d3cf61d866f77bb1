"""What the command line says of columns: TOML files and `COLUMN=PATH` pairs."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sweeper.command import KNOB
from sweeper.errors import SweeperError
from sweeper.importing.names import IGNORED, ROLES, convert, paths, split
from sweeper.scores import Judge
from sweeper.space import did_you_mean

ParametersCount = Literal["all", "non_embedding", "matrices", "unknown"]
"""A ParamsCount of the fits, or `unknown`."""
COUNTS: dict[str, ParametersCount] = {
    "all": "all", "non-embedding": "non_embedding", "matrices": "matrices", "unknown": "unknown",
}  # fmt: skip
"""By what the command line calls them."""
ALONE = ("parameters", "bytes_per_token")
"""Fields of a MapFile that are options of the command line, too."""


class MapFile(BaseModel):
    """A mapping file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: dict[str, str] = {}
    """Config path, `trainer.KNOB` or role, with factors such as `*1024`, or `-`; by column."""
    constants: dict[str, bool | int | float | str] = {}
    """What is the same for all rows and stands in no column: value by config path, `trainer.KNOB` or role."""
    command: str = ""
    """What the runs were runs of."""
    judge: Judge | None = None
    parameters: ParametersCount = "unknown"
    """What the runs' numbers of parameters count."""
    bytes_per_token: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Mean bytes that a token of the validation text stands for: makes bits per byte of losses in nats per token."""


def load_mapping(
    given: Sequence[str],
    constants: Sequence[str] = (),
    *,
    parameters: ParametersCount | None = None,
    bytes_per_token: float | None = None,
) -> MapFile:
    """The mapping of the command line: TOML files and `COLUMN=PATH` pairs, later ones over earlier ones.

    Args:
        constants: `PATH=VALUE` pairs.
        parameters, bytes_per_token: as in a MapFile, over those of files; None leaves them as they are.

    Raises:
        SweeperError: no such file, no mapping, or a target that is neither config path, knob nor role.
    """
    merged: dict[str, Any] = {"columns": {}, "constants": {}}
    for text in given:
        if text.endswith(".toml") and "=" not in text:
            table = _read(Path(text))
            merged["columns"] |= table.columns
            merged["constants"] |= table.constants
            merged |= table.model_dump(include={"command", "judge", *ALONE}, exclude_defaults=True)
            continue
        column, equals, target = text.rpartition("=")
        if not equals or not column or not target:
            raise SweeperError(
                "--map takes FILE.toml or COLUMN=PATH such as lr=optim.matrix_lr, each after a --map of its own; "
                f"got {text!r}"
            )
        merged["columns"][column] = target
    for text in constants:
        target, equals, value = text.partition("=")
        if not equals or not value:
            raise SweeperError(f"--set takes PATH=VALUE such as data.seq_len=1024, got {text!r}")
        merged["constants"][target] = value
    said = zip(ALONE, (parameters, bytes_per_token), strict=True)
    merged |= {key: value for key, value in said if value is not None}
    for column, target in merged["columns"].items():
        _check_target(f"--map {column}={target}", target)
    for target, value in merged["constants"].items():
        _check_constant(target, value)
    try:
        return MapFile.model_validate(merged)
    except ValidationError as error:
        raise SweeperError(_explain(error)) from error


def _read(path: Path) -> MapFile:
    try:
        return MapFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SweeperError(f"cannot read the mapping {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SweeperError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise SweeperError(f"{path}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    """The first thing that is wrong: key, value, expectation, and the keys that there are."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}, got {first['input']!r}; a mapping has {', '.join(MapFile.model_fields)}"


def _check_constant(target: str, value: Any) -> None:
    said = f"--set {target}={value}"
    if target in ("score", "state", "id", IGNORED):
        raise SweeperError(f"{said}: it cannot be the same for all runs")
    _check_target(said, target)
    try:
        if target in paths():
            convert(target, value)
    except ValueError as error:
        raise SweeperError(f"{said}: {error}") from error


def _check_target(said: str, target: str) -> None:
    try:
        path, _ = split(target)
    except ValueError as error:
        raise SweeperError(f"{said}: a factor is a number, as in batch_size=data.batch_tokens*1024; {error}") from error
    if path == IGNORED or path in ROLES or path in paths():
        return
    if path.startswith(KNOB) and path.removeprefix(KNOB).replace("-", "_").isidentifier():
        return
    known = [*ROLES, *paths()]
    raise SweeperError(
        f"{said}: {path!r} is no config path, no {KNOB}NAME and none of {', '.join(ROLES)}{did_you_mean(path, known)}"
    )
