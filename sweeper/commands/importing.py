"""`sweeper import`: a study of runs made elsewhere, and the report of what became of them; `sweeper example`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sweeper import display, examples
from sweeper.importing import hints, importer
from sweeper.importing.importer import EXAMPLES, Order, Report
from sweeper.importing.mapping import MapFile
from sweeper.importing.names import UNITS
from sweeper.service import Service
from sweeper.settings import Settings
from sweeper.storage import parse_url

EVERY = 500
LONGEST_DETAIL = 300
LONGEST_CELL = 40


def bring_in(order: Order, settings: Settings, console: Console, *, as_json: bool) -> int:
    """Import and report; the exit status: 0 when runs are stored, now or before, 1 when there is none to store.

    Raises:
        SweeperError: as `importer.run`.
    """

    def progress(verb: str, done: int, total: int) -> None:
        if not as_json and total > EVERY and (done % EVERY == 0 or done == total):
            display.say(console, f"{verb}: {done:,} of {total:,}")

    with _service(settings, order.dry_run) as service:
        report = importer.run(order, service, progress)
    if as_json:
        display.say(console, json.dumps(report.plain(), allow_nan=False))
    else:
        _show(report, console)
    return 0 if report.stored or report.there else 1


def list_examples(console: Console) -> None:
    """Print the packaged studies, a sentence each, and how to take one."""
    found = examples.packaged()
    table = Table("example", "trials", "what it is", box=None)
    for example in found:
        table.add_row(example.name, f"{example.runs:,}", example.description)
    console.print(table)
    display.say(console, f"take one into this home: sweeper example {found[-1].name}")


def take_example(name: str, settings: Settings, console: Console) -> None:
    """Import a packaged study under its name, and say what to look at.

    Raises:
        SweeperError: no such example, or a study of that name which is another one.
    """
    example = examples.find(name)
    order = Order(sources=[str(example.path)], study=name, mapping=MapFile(), form="archive")
    with _service(settings, dry_run=False) as service:
        report = importer.run(order, service, lambda verb, done, total: None)
    stored = sum(report.stored.values())
    told = f"study {name}: {stored:,} trials stored" if stored else f"study {name} is there already"
    display.say(console, f"{told}. {example.description}")
    display.say(console, "next:")
    for command, shows in (
        ("sweeper serve", "its pages: curves, axes, scaling laws"),
        (f"sweeper fit --study {name}", "the laws that its trials hold"),
        (f"sweeper plan --study {name} --hours 0.03", "what a run of 108 seconds should use, by them"),
    ):
        display.say(console, f"  {command:<50} # {shows}")


@contextlib.contextmanager
def _service(settings: Settings, dry_run: bool) -> Generator[Service | None]:
    """The database; a dry run does not make one."""
    url = parse_url(settings.storage)
    if dry_run and url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        yield None
        return
    service = Service.open(settings)
    try:
        yield service
    finally:
        service.close()


def _show(report: Report, console: Console) -> None:
    stored = sum(report.stored.values())
    states = ", ".join(f"{count:,} {state}" for state, count in report.stored.items())
    verb = "would store" if report.dry_run else "stored"
    skipped = len(report.skipped)
    display.say(
        console,
        f"study {report.study}: read {report.read:,}, {verb} {stored:,}{f' ({states})' if states else ''}, "
        f"there already {report.there:,}, skipped {skipped:,}",
    )
    if report.dry_run or not report.stored:
        _show_columns(report, console)
    if report.axes:
        table = Table("axis", "range", "from", box=None)
        for path, axis in report.axes.items():
            table.add_row(path, axis, report.used.get(path, ""))
        console.print(table)
    if report.judge:
        display.say(console, f"ranked by the {report.judge} score")
    if report.skipped:
        _show_skipped(report, console)
    if report.unused:
        display.say(console, f"columns not used (--map COLUMN=PATH names them): {', '.join(report.unused)}")
    if report.proposed:
        display.say(console, f"perhaps: {hints.words(report.proposed)}")
    for note in report.notes:
        display.say(console, f"note: {note}")


def _show_columns(report: Report, console: Console) -> None:
    """What each column is taken for, with its first cell: whether a unit is the right one is seen by a number."""
    if not report.examples:
        return
    table = Table("column", "is read as", "such as", "which is", box=None)
    for target, (cell, value) in report.examples.items():
        unit = report.score_unit if target == "score" else UNITS.get(target, "")
        shown = cell if len(cell) <= LONGEST_CELL else f"{cell[:LONGEST_CELL]}…"
        table.add_row(report.used[target], target, shown, f"{value[:LONGEST_CELL]}{f' {unit}' if unit else ''}")
    console.print(table)


def _show_skipped(report: Report, console: Console) -> None:
    """Reasons with examples; what is wrong with all of a kind alike is said once."""
    table = Table("skipped because", "runs", "such as", box=None)
    for reason, items in report.reasons.items():
        shown = {item.detail: item for item in reversed(items)} if items[0].detail else {}
        several = list(reversed(shown.values()))[:EXAMPLES] if shown else items[:EXAMPLES]
        for place, item in enumerate(several):
            detail = f"{item.source}{f': {item.detail[:LONGEST_DETAIL]}' if item.detail else ''}"
            table.add_row(reason if not place else "", f"{len(items):,}" if not place else "", detail)
    console.print(table)
