"""Tables of runs, a row each: CSV (W&B's exports among them), JSON lines, and another Optuna study's trials."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweeper.errors import SweeperError
from sweeper.importing.names import ROLES, Names, convert, number
from sweeper.importing.runs import THERE, Run, Skipped, checked, identity_of
from trainer.events import End, Eval, Event, Outcome

COMPLETE = ("", "complete", "completed", "finished", "done", "success")
ENDED = {"pruned": "pruned", "stopped": "stopped", "diverged": "diverged"}
"""States of runs that count although they have no score; of others than these two lists nothing is stored."""
LATEST = 1e10
"""Unix seconds; what is later are milliseconds, or no time at all."""
NO_VALUE = ("", "nan", "none", "null", "n/a", "-")

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
    """
    Raises:
        SweeperError: it cannot be read, or has no header.
    """
    text = _text(path)
    dialect = "\t" if path.suffix == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=dialect)
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
    """Objects, one a line, or all in one array; nested ones are flattened with dots.

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
    for place, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path} line {place}", json.loads(line)
            except (ValueError, RecursionError):
                yield f"{path} line {place}", None


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


def understand(
    table: Table, names: Names, known: Collection[str]
) -> tuple[list[Run | Skipped], dict[str, str], list[str]]:
    """The runs of a table; which column stands for what, by target; and the columns that stand for nothing.

    Args:
        known: identities of runs that are stored.
    """
    chosen, unused = names.choose(table.columns)
    lacking = names.missing(table.columns)
    found: list[Run | Skipped] = list(table.broken)
    for place, (where, cells) in enumerate(table.rows):
        absent = [*lacking, *([] if "score" in chosen else ["the score, val_bpb"])]
        if absent:
            detail = f"{', '.join(absent)}; the table has {', '.join(table.columns)}"
            found.append(Skipped(source=where, reason="a missing column", detail=detail))
            continue
        run = _run(where, {target: cells.get(column) for target, column in chosen.items()}, table.curves.get(place, []))
        if isinstance(run, Run) and run.identity in known:
            run = Skipped(source=where, reason=THERE)
        found.append(run)
    return found, chosen, unused


def _run(where: str, cells: Cells, curve: Sequence[tuple[int, float]]) -> Run | Skipped:
    state = _text_of(cells.get("state")).lower().removeprefix("trialstate.")
    if state not in COMPLETE and state not in ENDED:
        return Skipped(source=where, reason="it did not finish", detail=f"its state is {cells.get('state')!r}")
    values: dict[str, Any] = {}
    figures: dict[str, float] = {}
    for target, raw in cells.items():
        if target in ("state", "name", "id", "created", "device_name") or _is_empty(raw, target):
            continue
        try:
            if target in ROLES:
                figures[target] = _seconds(raw) if target.endswith("seconds") else number(raw)
            else:
                values[target] = convert(target, raw)
        except ValueError as error:
            finite = "finite" not in str(error)
            if target == "score" and not finite:
                return Skipped(source=where, reason="the score is not finite", detail=f"{raw!r}")
            return Skipped(source=where, reason="a value that does not parse", detail=f"{target}: {error}")
    if state in COMPLETE and "score" not in figures:
        return Skipped(source=where, reason="no score", detail=f"{cells.get('score')!r} where val_bpb belongs")
    name = _text_of(cells.get("name")) or _text_of(cells.get("id")) or where
    key = _text_of(cells.get("id")) or _text_of(cells.get("name"))
    created = _time(cells.get("created"))
    run = Run(
        source=where, identity=identity_of(key, state, values, figures, curve), name=name, values=values,
        started_at=created, device_name=_text_of(cells.get("device_name"))[:200],
    )  # fmt: skip
    run.tell(_events(figures, ENDED.get(state, "complete"), curve), created or 0.0)
    if "parameters" in figures:
        run.parameters = int(figures["parameters"])
    run.wall_seconds = figures.get("wall_seconds", run.seconds)
    run.train_loss = figures.get("train_loss")
    if run.state != "complete" and run.val_bpb is None:
        run.val_bpb = figures.get("score")
    return checked(run)


def _events(figures: Mapping[str, float], state: str, curve: Sequence[tuple[int, float]]) -> Iterator[Event]:
    """What such a run would have said."""
    last = max((step for step, _ in curve), default=0)
    step, tokens = int(figures.get("steps", last)), int(figures.get("tokens", 0))
    reached: dict[str, Any] = {"step": step, "tokens": tokens, "seconds": figures.get("seconds", 0.0)}
    for at, val_bpb in curve:
        share = at / last if last > 0 else 1.0
        yield Eval(
            step=at, tokens=round(share * tokens), seconds=share * reached["seconds"], progress=share, fraction=share,
            val_loss=0.0, val_bpb=val_bpb, val_tokens=0, eval_seconds=0.0,
        )  # fmt: skip
    if state == "complete":
        val_loss = figures.get("val_loss", 0.0)
        yield Outcome(**reached, val_loss=val_loss, val_bpb=figures["score"], val_tokens=0)
    yield End(reason=state, wall_seconds=figures.get("wall_seconds", reached["seconds"]), **reached)


def _is_empty(raw: Any, target: str) -> bool:
    text = _text_of(raw).lower()
    return text in NO_VALUE and not (target == "score" and text == "nan")


def _text_of(raw: Any) -> str:
    return "" if raw is None else str(raw).strip()


def _seconds(raw: Any) -> float:
    """A number, or what pandas writes: `0 days 00:10:00.5`."""
    text = _text_of(raw)
    days, found, clock = text.partition(" days ")
    if not found:
        return number(raw)
    hours, minutes, seconds = clock.split(":")
    return 86400 * number(days) + 3600 * number(hours) + 60 * number(minutes) + number(seconds)


def _time(raw: Any) -> float | None:
    """Unix seconds of Unix seconds, or of a date as ISO 8601 has it; None where it is neither."""
    text = _text_of(raw)
    try:
        seconds = number(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return seconds if 0 < seconds < LATEST else None
