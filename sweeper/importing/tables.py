"""Tables of runs as they are found, a row each and not yet understood: CSV (W&B's exports among them), JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import SweeperError
from sweeper.importing.runs import Skipped

DELIMITERS = ",;\t"

Cells = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of one source, not yet understood."""

    source: str
    columns: list[str]
    rows: list[tuple[str, Cells]]
    """Where it stands, in words, and its cells by column."""
    broken: list[Skipped]
    curves: dict[int, list[tuple[int, float]]]
    """Step and val_bpb on the way, by place among `rows`; only another Optuna study has such."""


def read_csv(path: Path) -> Table:
    """Rows between commas, semicolons or tabs, whichever its header has most of.

    Raises:
        SweeperError: it cannot be read, or has no header.
    """
    text = _text(path)
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=first.count))
    rows: list[tuple[str, Cells]] = []
    broken: list[Skipped] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise SweeperError(f"{path} has no header: its first line must name the columns")
        for place, cells in enumerate(reader, start=1):
            where = f"{path} row {place}"
            if len(cells) == len(header):
                rows.append((where, dict(zip(header, cells, strict=True))))
            elif cells:
                found = f"{len(cells)} cells where the header has {len(header)}"
                broken.append(Skipped(source=where, reason="a broken row", detail=found))
    except csv.Error as error:
        raise SweeperError(f"{path} is not CSV: {error}") from error
    return Table(source=str(path), columns=list(dict.fromkeys(header)), rows=rows, broken=broken, curves={})


def read_jsonl(path: Path) -> Table:
    """Objects, one a line, all in one array, or a single one; nested ones are flattened with dots.

    Raises:
        SweeperError: it cannot be read.
    """
    text = _text(path)
    rows: list[tuple[str, Cells]] = []
    broken: list[Skipped] = []
    for where, item in _objects(path, text):
        if isinstance(item, dict):
            rows.append((where, dict(_flat(item))))
        else:
            broken.append(Skipped(source=where, reason="a broken row", detail="no JSON object"))
    columns = list(dict.fromkeys(column for _, cells in rows for column in cells))
    return Table(source=str(path), columns=columns, rows=rows, broken=broken, curves={})


def _objects(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    if text.lstrip().startswith("["):
        try:
            yield from ((f"{path} item {place}", item) for place, item in enumerate(json.loads(text), start=1))
            return
        except (ValueError, RecursionError) as error:
            raise SweeperError(f"{path} is not JSON: {error}") from error
    lines = [(f"{path} line {place}", line) for place, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if lines and _parsed(lines[0][1]) is None and (alone := _parsed(text)) is not None:
        yield str(path), alone  # one object over several lines
        return
    yield from ((where, _parsed(line)) for where, line in lines)


def _parsed(text: str) -> Any:
    """None for what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _flat(item: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in item.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise SweeperError(f"cannot read {path}: {error.strerror}") from error
