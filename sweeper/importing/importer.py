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

from sweeper import archive
from sweeper.errors import SweeperError
from sweeper.importing import archives, axes, foreign_study, hints, logs, rows, tables, units
from sweeper.importing.mapping import MapFile
from sweeper.importing.names import ROLES, Names
from sweeper.importing.runs import BITS, COPY, GROWN, THERE, Run, Skipped
from sweeper.importing.store import BATCH_RUNS, Known, Store, known
from sweeper.service import Service
from sweeper.study import StudySpec

Format = Literal["archive", "auto", "csv", "jsonl", "logs", "optuna", "wandb"]
EXAMPLES = 3
NOTHING_NEW = "nothing is new: the study stays as it is; to read the same runs otherwise, import into another name"


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
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By what a column is used for: its first cell, and what that is read as."""
    proposed: dict[str, str] = field(default_factory=dict)
    """What to map columns to that are unused, or searched as knobs of which no law is fitted; by column."""
    axes: dict[str, str] = field(default_factory=dict)
    """By config path, as a study file writes them."""
    judge: str = ""
    score_unit: str = BITS
    """What scores of tables are read as."""
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
        names = (
            *("study", "dry_run", "read", "there", "stored", "used", "unused", "examples", "proposed"),
            *("axes", "judge", "score_unit", "notes", "seconds"),
        )
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
    old = known(service, order.study) if service is not None else Known()
    report = Report(study=order.study, dry_run=order.dry_run)
    began = time.perf_counter()
    path = _archive(order)
    archived: StudySpec | None = None
    if path is None:
        taken = _read(order, old.identities, report, progress)
    else:
        archived, taken = archives.read(path, order.study, old.identities)
    found = _once(taken, report)
    if archived is None:
        found, other, notes = units.of_one_unit(found, old.score_unit)
        report.skipped += other
        report.notes += notes
    report.seconds["read"] = round(time.perf_counter() - began, 3)
    searched = hints.unread(report.used)
    report.proposed = hints.proposals([*report.unused, *searched], report.used)
    if knobs := [column for column in searched if column in report.proposed]:
        report.notes.append(f"no law reads {', '.join(knobs)} as it is mapped")
    if not found:
        report.notes += [] if old.spec is None or not report.there else [NOTHING_NEW]
        report.axes = {} if old.spec is None else _axes(old.spec)
        return report
    fitted = _fitted(order, found, old, archived, hints.words(report.proposed))
    report.skipped += fitted.skipped
    report.notes += [*fitted.notes, *hints.lacking(fitted.runs)]
    report.notes += units.implausible(fitted.runs, report.used) if archived is None else []
    report.axes, report.judge = _axes(fitted.spec), fitted.spec.judge
    report.stored = dict(Counter(run.state for run in fitted.runs))
    if service is not None and not order.dry_run and fitted.runs:
        began = time.perf_counter()
        report.stored = _store(service, old, fitted, progress)
        report.seconds["store"] = round(time.perf_counter() - began, 3)
    return report


def _fitted(order: Order, found: list[Run], old: Known, archived: StudySpec | None, hint: str) -> axes.Fit:
    if archived is not None:
        return archives.fit(found, order.study, archived, old)
    return axes.fit(
        found, order.study, old=old.spec, resumed=old.resumed, judge=order.mapping.judge,
        command_line=order.mapping.command, source=_words(order), hint=hint,
    )  # fmt: skip


def _archive(order: Order) -> Path | None:
    """The archive that is to be imported; None where the sources are of another kind.

    Raises:
        SweeperError: an archive beside other sources, or with a mapping.
    """
    paths = [Path(source).expanduser() for source in order.sources]
    kinds = [order.form == "archive" or (order.form == "auto" and archive.is_archive(path)) for path in paths]
    if not any(kinds):
        return None
    if len(paths) > 1:
        raise SweeperError("an archive is a whole study: import it alone")
    if order.mapping != MapFile() or order.optuna_study is not None:
        raise SweeperError(f"{paths[0]} is an archive and says all of its runs itself: leave --map, --set and "
                           "--optuna-study out")  # fmt: skip
    return paths[0]


def _store(service: Service, old: Known, fitted: axes.Fit, progress: Callable[[str, int, int], None]) -> dict[str, int]:
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
    grown = 0
    for item in found:
        if isinstance(item, Skipped):
            if item.reason == THERE:
                report.there += 1
                grown += item.detail == GROWN
            else:
                report.skipped.append(item)
        elif item.identity in runs:
            twin = runs[item.identity].source
            report.skipped.append(Skipped(source=item.source, reason=COPY, detail=twin))
        else:
            runs[item.identity] = item
    report.read = len(found)
    if grown:
        report.notes.append(f"{grown:,} logs that are there already have grown since, and stay as they were stored")
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
            told = rows.understand(table, names, there, order.mapping.constants, order.mapping.bytes_per_token)
            for run in told.runs:
                if isinstance(run, Run):
                    run.parameters_count = order.mapping.parameters
            found += told.runs
            report.score_unit = told.score_unit
            report.notes += told.notes
            report.used |= told.used
            report.examples = told.examples | report.examples
            report.unused += [column for column in told.unused if column not in report.unused]
            progress("reading", len(found), 0)
    if log_sources:
        paths = logs.find(log_sources)
        reading = logs.Reading(
            columns=order.mapping.columns, known=there, constants=order.mapping.constants,
            parameters_count=order.mapping.parameters, bytes_per_token=order.mapping.bytes_per_token,
        )  # fmt: skip
        report.notes += [
            f"--set {target} is not taken for logs, which say themselves what they did"
            for target in order.mapping.constants
            if target in ROLES and target not in logs.CONSTANT_ROLES
        ]
        for done, item in enumerate(logs.read_all(paths, reading), start=1):
            found.append(item)
            progress("reading", done, len(paths))
    return found


def _tables(source: str, form: str, optuna_study: str | None) -> list[tables.Table]:
    if form == "optuna":
        return [foreign_study.read(source if "://" in source else f"sqlite:///{source}", optuna_study)]
    read = tables.read_jsonl if form == "jsonl" else tables.read_csv
    suffixes = (".jsonl", ".ndjson", ".json") if form == "jsonl" else (".csv", ".tsv")
    return [read(path) for path in _files(source, suffixes)]


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
        return "optuna"
    return "logs"


def _words(order: Order) -> str:
    shown = [source.rpartition("@")[2] for source in order.sources[:EXAMPLES]]
    more = len(order.sources) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _axes(spec: StudySpec) -> dict[str, str]:
    plain = {path: axis.model_dump(mode="json", exclude_defaults=True) for path, axis in spec.space.items()}
    return {path: json.dumps(axis) for path, axis in plain.items()}
