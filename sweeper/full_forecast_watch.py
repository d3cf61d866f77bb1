"""The service's eye on full runs: an event when one leaves its band, and when it is back."""

from __future__ import annotations

import logging

from sqlalchemy import select

from sweeper.full_bands import BINS
from sweeper.full_forecast import FullForecast
from sweeper.full_forecast_read import FullForecasts
from sweeper.results import Results
from sweeper.service import Service
from sweeper.tables import EventRow, RunRow, StudyRow

log = logging.getLogger(__name__)

LEFT, BACK = "left its band", "back in its band"
"""Verbs of the events."""


class Watch:
    """Looks at each running promotion once in a sixtieth of its run, as often as there is something new to judge."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._forecasts = FullForecasts(service.engine, Results(service.engine))
        self._seen: dict[int, int] = {}

    def look(self) -> None:
        """Judge what is new."""
        running = select(RunRow.id, RunRow.number, RunRow.progress, StudyRow.id.label("study"), StudyRow.name)
        running = running.join(StudyRow, StudyRow.id == RunRow.study_id)
        with self._service.read() as session:
            rows = session.execute(running.where(RunRow.kind == "promotion", RunRow.state == "running")).all()
        for row in rows:
            reached = int(BINS * row.progress)
            if self._seen.get(row.id) != reached:
                self._seen[row.id] = reached
                self._judge(row.study, row.name, row.number)

    def _judge(self, study: int, name: str, number: int) -> None:
        try:
            found = self._forecasts.of(name, number)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # Who looks after leases must not die of a curve that nobody thought of; the run's page shows the error.
            log.warning("could not foretell promotion %d of %s: %s", number, name, error)
            return
        self._tell(study, number, found)

    def _tell(self, study: int, number: int, found: FullForecast) -> None:
        """Say what has changed since the last event, which another service may have written."""
        said = select(EventRow.verb, EventRow.detail).where(EventRow.study_id == study, EventRow.verb.in_((LEFT, BACK)))
        with self._service.write() as session:
            rows = session.execute(said.order_by(EventRow.id.desc())).all()
            last = next((row for row in rows if (row.detail or {}).get("promotion") == number), None)
            out = last is not None and last.verb == LEFT
            side = (last.detail or {}).get("side") if last is not None else None
            if found.alarm and not (out and side == found.state):
                detail = {"promotion": number, "side": found.state, "since_step": found.since_step}
                self._service.audit(session, study, "service", LEFT, **detail, by=round(found.by or 0.0, 4))
            elif out and found.state == "inside":
                self._service.audit(session, study, "service", BACK, promotion=number)
