"""How fast imported runs trained, kept as of runs that ended here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sweeper import throughput
from sweeper.importing.runs import Run
from sweeper.tables import RunRow, ThroughputRow

Measured = Mapping[str, float]


def measured(session: Session) -> Measured:
    """By the name of a device: Unix seconds of its newest measurement."""
    query = select(ThroughputRow.device_name, func.max(ThroughputRow.measured_at)).group_by(ThroughputRow.device_name)
    return {row[0]: row[1] for row in session.execute(query)}


def keep(session: Session, runs: Sequence[Run], rows: Sequence[RunRow], before: Measured) -> None:
    """Keep the speeds of runs that brought their whole config, but on devices that were measured here since.

    Args:
        rows: of these runs, stored.
        before: what was measured before anything of this import was stored.
    """
    whole = [row for run, row in zip(runs, rows, strict=True) if run.config is not None and run.state != "failed"]
    ended = {row.id: row.ended_at or 0.0 for row in whole}
    for row in sorted(whole, key=lambda row: ended[row.id]):
        if before.get(row.device_name, 0.0) < ended[row.id]:
            throughput.store_run(session, row, ended[row.id])
