"""How fast imported runs trained, kept as of runs that ended here."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sweeper import throughput
from sweeper.importing.runs import Run
from sweeper.tables import RunRow, ThroughputRow


def keep(session: Session, runs: Sequence[Run], rows: Sequence[RunRow]) -> None:
    """Keep the speeds of runs that brought their whole config, but on devices that were measured here since.

    Args:
        rows: of these runs, stored.
    """
    whole = [row for run, row in zip(runs, rows, strict=True) if run.config is not None and run.state != "failed"]
    ended = {row.id: row.ended_at or 0.0 for row in whole}
    query = select(ThroughputRow.device_name, func.max(ThroughputRow.measured_at)).group_by(ThroughputRow.device_name)
    since = {row[0]: row[1] for row in session.execute(query)}
    for row in sorted(whole, key=lambda row: ended[row.id]):
        if since.get(row.device_name, 0.0) < ended[row.id]:
            throughput.store_run(session, row, ended[row.id])
