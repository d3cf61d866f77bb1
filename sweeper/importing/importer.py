"""An import from its sources to its report: read everything, derive the study, store what is new in batches."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

from sweeper.errors import SweeperError
from sweeper.importing import axes, foreign_study, logs, rows
from sweeper.importing.names import MapFile, Names
from sweeper.importing.runs import COPY, THERE, Run, Skipped
from sweeper.importing.store import BATCH_RUNS, Store, known
from sweeper.service import Service
from sweeper.study import StudySpec

Format = Literal["auto", "csv", "jsonl", "logs", "optuna", "wandb"]
EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be imported."""

    sources: list[str]
    study: str
    mapping: MapFile
    form: Format = "auto"
    optuna_study: str | None = None
    dry_run: bool = False


@dataclass(slots=True, kw_only=True)
class Report:
    """What an import read, stored and left out."""

    study: str
    dry_run: bool
    read: int = 0
    """Logs, rows and trials that were looked at."""
    there: int = 0
    """Of which were stored before, and are as they were."""
    stored: dict[str, int] = field(default_factory=dict)
    """New runs by state; in a dry run what would be."""
    skipped: list[Skipped] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)
    """Column by what it is used for."""
    unused: list[str] = field(default_factory=list)
    """Columns that nobody named and nothing is known of."""
    axes: dict[str, str] = field(default_factory=dict)
    """By config path, as a study file writes them."""
    judge: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """By part of the work."""

    @property
    def reasons(self) -> dict[str, list[Skipped]]:
        """What was left out, by reason, the most frequent first."""
        counts = Counter(item.reason for item in self.skipped)
        return {reason: [item for item in self.skipped if item.reason == reason] for reason, _ in counts.most_common()}

    def plain(self) -> dict[str, Any]:
        """As plain JSON: the skipped as counts and first examples."""
        skipped = {
            reason: {"count": len(items), "examples": [_example(item) for item in items[:EXAMPLES]]}
            for reason, items in self.reasons.items()
        }
        names = ("study", "dry_run", "read", "there", "stored", "used", "unused", "axes", "judge", "notes", "seconds")
        return {name: getattr(self, name) for name in names} | {"skipped": skipped}


def _example(item: Skipped) -> dict[str, str]:
    return {"source": item.source, "detail": item.detail}


def run(order: Order, service: Service | None, progress: Callable[[str, int, int], None]) -> Report:
    """Import; importing the same again stores nothing and changes nothing.

    Args:
        service: None where there is no database yet, in a dry run.
        progress: told `reading` or `storing`, how many are done, and of how many; 0 where that is not known.

    Raises:
        SweeperError: a source that cannot be read at all, a study that is not an imported one, or a database that
            failed: what was stored until then stays, and the same command goes on.
    """
    old, there = known(service, order.study) if service is not None else (None, frozenset())
    report = Report(study=order.study, dry_run=order.dry_run)
    began = time.perf_counter()
    found = _once(_read(order, there, report, progress), report)
    report.seconds["read"] = round(time.perf_counter() - began, 3)
    report.notes += [] if old is None or found else ["nothing is new: the study stays as it is"]
    if not found:
        report.axes = {} if old is None else _axes(old)
        return report
    fitted = axes.fit(
        found, order.study, old=old, judge=order.mapping.judge, command_line=order.mapping.command, source=_words(order)
    )
    report.skipped += fitted.skipped
    report.notes += fitted.notes
    report.axes, report.judge = _axes(fitted.spec), fitted.spec.judge
    report.stored = dict(Counter(run.state for run in fitted.runs))
    if service is not None and not order.dry_run and fitted.runs:
        began = time.perf_counter()
        report.stored = _store(service, old, fitted, progress)
        report.seconds["store"] = round(time.perf_counter() - began, 3)
    return report


def _store(
    service: Service, old: StudySpec | None, fitted: axes.Fit, progress: Callable[[str, int, int], None]
) -> dict[str, int]:
    stored: Counter[str] = Counter()
    done = 0
    try:
        store = Store(service, old, fitted.spec, len(fitted.runs))
        try:
            for at in range(0, len(fitted.runs), BATCH_RUNS):
                batch = fitted.runs[at : at + BATCH_RUNS]
                stored += Counter(run.state for run in store.add(batch))
                done += len(batch)
                progress("storing", done, len(fitted.runs))
        finally:
            store.close()
    except (SQLAlchemyError, OptunaError, OSError) as error:
        raise SweeperError(
            f"the database failed after {done} of {len(fitted.runs)} new runs, which stay: "
            f"{str(error).splitlines()[0]}; the same command stores the rest"
        ) from error
    return dict(stored)


def _once(found: Sequence[Run | Skipped], report: Report) -> list[Run]:
    """The new runs, each once; the rest goes to the report."""
    runs: dict[str, Run] = {}
    for item in found:
        if isinstance(item, Skipped):
            if item.reason == THERE:
                report.there += 1
            else:
                report.skipped.append(item)
        elif item.identity in runs:
            twin = runs[item.identity].source
            report.skipped.append(Skipped(source=item.source, reason=COPY, detail=twin))
        else:
            runs[item.identity] = item
    report.read = len(found)
    return list(runs.values())


def _read(
    order: Order, there: frozenset[str], report: Report, progress: Callable[[str, int, int], None]
) -> list[Run | Skipped]:
    found: list[Run | Skipped] = []
    names = Names(order.mapping.columns)
    log_sources: list[str] = []
    for source in order.sources:
        form = _format(source) if order.form == "auto" else order.form
        if form == "logs":
            log_sources.append(source)
            continue
        for table in _tables(source, form, order.optuna_study):
            understood, used, unused = rows.understand(table, names, there)
            found += understood
            report.used |= used
            report.unused += [column for column in unused if column not in report.unused]
            progress("reading", len(found), 0)
    if log_sources:
        paths = logs.find(log_sources)
        reading = logs.Reading(columns=order.mapping.columns, known=there)
        for done, item in enumerate(logs.read_all(paths, reading), start=1):
            found.append(item)
            progress("reading", done, len(paths))
    return found


def _tables(source: str, form: str, optuna_study: str | None) -> list[rows.Table]:
    if form == "optuna":
        return [foreign_study.read(source, optuna_study)]
    read = rows.read_jsonl if form == "jsonl" else rows.read_csv
    return [read(path) for path in _files(source, (".jsonl", ".ndjson") if form == "jsonl" else (".csv", ".tsv"))]


def _files(source: str, suffixes: Collection[str]) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        paths = [found for suffix in suffixes for found in sorted(path.rglob(f"*{suffix}"))]
    else:
        paths = [path] if path.is_file() else logs.matching(source)
    if not paths:
        raise SweeperError(f"{source!r} leads to no file: give files, a folder of {' or '.join(suffixes)}, or a glob")
    return paths


def _format(source: str) -> str:
    if "://" in source:
        return "optuna"
    suffix = Path(source).suffix.lower()
    if suffix in (".csv", ".tsv"):
        return "csv"
    if suffix in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    if suffix in (".db", ".sqlite", ".sqlite3"):
        raise SweeperError(f"an Optuna study in a file is given as its URL, sqlite:///{source}")
    return "logs"


def _words(order: Order) -> str:
    shown = [source.rpartition("@")[2] for source in order.sources[:EXAMPLES]]
    more = len(order.sources) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _axes(spec: StudySpec) -> dict[str, str]:
    plain = {path: axis.model_dump(mode="json", exclude_defaults=True) for path, axis in spec.space.items()}
    return {path: json.dumps(axis) for path, axis in plain.items()}
