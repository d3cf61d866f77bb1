"""`sweeper import`: a study of runs made elsewhere, and the report of what became of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sweeper import display
from sweeper.importing import importer
from sweeper.importing.importer import EXAMPLES, Order, Report
from sweeper.service import Service
from sweeper.settings import Settings
from sweeper.storage import parse_url

EVERY = 500
LONGEST_DETAIL = 100


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
    if report.axes:
        table = Table("axis", "range", "from", box=None)
        for path, axis in report.axes.items():
            table.add_row(path, axis, report.used.get(path, ""))
        console.print(table)
    if report.judge:
        display.say(console, f"ranked by the {report.judge} score")
    if report.skipped:
        table = Table("skipped because", "runs", "such as", box=None)
        for reason, items in report.reasons.items():
            for place, item in enumerate(items[:EXAMPLES]):
                detail = f"{item.source}{f': {item.detail[:LONGEST_DETAIL]}' if item.detail else ''}"
                table.add_row(reason if not place else "", f"{len(items):,}" if not place else "", detail)
        console.print(table)
    if report.unused:
        display.say(console, f"columns not used (--map COLUMN=PATH names them): {', '.join(report.unused)}")
    for note in report.notes:
        display.say(console, f"note: {note}")
