"""A study as one file that another installation takes in whole: `NAME.sweeper.jsonl.zst`.

The first line says format, version, how many runs follow and the study; each further one is a run: its row, and what
it said as events of the protocol, in order.  Left out: promotions and confirmation runs, runs that have not ended,
what trainers printed, and samples, whose words may be somebody's text.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sweeper.compressed import uncompressed
from sweeper.errors import SweeperError

SUFFIX = ".sweeper.jsonl.zst"
FORMAT = "sweeper-archive"
VERSION = 1
LEVEL = 12

Ended = Literal["complete", "pruned", "diverged", "stopped", "failed"]


class Header(BaseModel):
    """The first line."""

    format: Literal["sweeper-archive"]
    version: int
    study: str
    runs: int = Field(ge=0)
    spec: dict[str, Any]
    """The resolved study, as StudySpec dumps it."""


class ArchivedRun(BaseModel):
    """One further line: a trial at its newest attempt, as in RunRow; keys that this version does not know are
    dropped."""

    model_config = ConfigDict(allow_inf_nan=False)

    number: int = Field(ge=0)
    attempt: int = Field(default=1, ge=1)
    state: Ended
    reason: str = ""
    params: dict[str, bool | int | float | str]
    config: dict[str, Any]
    """Seeds and ties included."""
    created_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    device: str = ""
    device_name: str = ""
    versions: dict[str, Any] = {}
    git_commit: str = Field(default="", max_length=64)
    parameters: int | None = None
    resumed_step: int = Field(default=0, ge=0)
    step: int = Field(ge=0)
    tokens: int = Field(ge=0)
    seconds: float = Field(ge=0)
    wall_seconds: float = Field(ge=0)
    progress: float
    train_loss: float | None = None
    val_bpb: float | None = None
    score: float | None = None
    score_stderr: float | None = None
    infeasible: str = ""
    peak_memory_bytes: int = Field(default=0, ge=0)
    events: list[dict[str, Any]]
    """As `events.to_dict` has them; with `seq`, and of a message `at`, where the tables have it."""


def write_lines(path: Path, header: dict[str, Any], runs: Iterable[dict[str, Any]]) -> Path:
    """Write an archive of plain values; it takes its name when it is whole."""
    beside = path.with_name(f".{path.name}.part")
    try:
        with (
            beside.open("wb") as file,
            zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(file) as stream,
        ):
            for line in itertools.chain([header], runs):
                stream.write(json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def is_archive(path: Path) -> bool:
    """By its name, or by its first line where that can be read."""
    if path.name.endswith(SUFFIX):
        return True
    if not path.is_file() or not path.name.endswith((".zst", ".jsonl")):
        return False
    try:
        with uncompressed(path) as (stream, _):
            return f'"{FORMAT}"'.encode() in stream.read(100)
    except (OSError, SweeperError):
        return False


def read_header(path: Path) -> Header:
    """What the archive says of itself.

    Raises:
        SweeperError: as `read`.
    """
    with _lines(path) as lines:
        return _header(path, next(lines, b""))


def read(path: Path) -> tuple[Header, list[ArchivedRun]]:
    """The whole archive.

    Raises:
        SweeperError: it cannot be read, is no archive, is damaged or incomplete, or of a newer sweeper.
    """
    with _lines(path) as lines:
        header = _header(path, next(lines, b""))
        runs = [_run(path, place, line) for place, line in enumerate(lines, start=2)]
    if len(runs) != header.runs:
        raise SweeperError(f"{path} is incomplete: it has {len(runs)} of {header.runs} runs; copy it again")
    return header, runs


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[bytes]]:
    try:
        with uncompressed(path) as (stream, _):
            yield iter(stream)
    except OSError as error:
        raise SweeperError(f"cannot read {path}: {error.strerror}") from error


def _header(path: Path, line: bytes) -> Header:
    plain = _plain(path, 1, line)
    if plain.get("format") != FORMAT:
        raise SweeperError(f"{path} is no archive of a study: its first line does not say {FORMAT!r}")
    version = plain.get("version")
    if isinstance(version, int) and version > VERSION:
        raise SweeperError(
            f"{path} is an archive of version {version}, and this sweeper reads them up to {VERSION}: "
            f"use the sweeper that wrote it, or a newer one"
        )
    try:
        return Header.model_validate(plain)
    except ValidationError as error:
        raise SweeperError(f"{path} line 1 is damaged: {_first(error)}") from error


def _run(path: Path, place: int, line: bytes) -> ArchivedRun:
    try:
        return ArchivedRun.model_validate(_plain(path, place, line))
    except ValidationError as error:
        raise SweeperError(f"{path} line {place} is damaged: {_first(error)}") from error


def _plain(path: Path, place: int, line: bytes) -> dict[str, Any]:
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SweeperError(f"{path} line {place} is damaged: it is no JSON; copy the file again") from error
    if not isinstance(plain, dict):
        raise SweeperError(f"{path} line {place} is damaged: it is no JSON object; copy the file again")
    return plain


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg'].lower()}"
