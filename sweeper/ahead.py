"""Trials drawn before they are asked for: while a trial is in its last stretch, so that no worker waits for
the sampler, and no earlier, so that the sampler has seen as much as it can.

A trial that is drawn and not handed out is RUNNING in Optuna without a run here, which is also what a kill between
asking and leasing leaves.  `handout` gives it to whoever asks next; nobody else sees it.
"""

from __future__ import annotations

import logging
import threading
from functools import partial

from optuna.exceptions import OptunaError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from sweeper import endings, handout
from sweeper.service import Service, spec_of
from sweeper.tables import PromotionRow, RunRow, StudyRow

log = logging.getLogger(__name__)


def draw(service: Service, study_id: int) -> bool:
    """Draw one trial of the study, where fewer are ready than workers will ask for soon; whether it did."""
    with service.turn(study_id):
        with service.read() as session:
            study = session.get_one(StudyRow, study_id)
            running = session.scalars(
                select(RunRow).where(RunRow.study_id == study_id, RunRow.kind == "trial", RunRow.state == "running")
            ).all()
            promotions = session.scalar(
                select(func.count())
                .select_from(PromotionRow)
                .where(PromotionRow.study_id == study_id, PromotionRow.state == "waiting")
            )
        # A waiting promotion is handed out before any trial.
        soon = sum(endings.nears_end(run) for run in running) - (promotions or 0)
        if study.state != "running" or soon <= 0:
            return False
        return service.search(spec_of(study)).draw_ahead(soon, partial(handout.with_runs, service, study_id))


class Drawer(threading.Thread):
    """Draws for the studies that `Service.ending` names, until it is stopped."""

    def __init__(self, service: Service) -> None:
        super().__init__(name="drawer", daemon=True)
        self._service = service

    def run(self) -> None:
        while (study_id := self._service.ending.get()) is not None:
            try:
                while draw(self._service, study_id):
                    pass  # one a turn: deliveries go between
            except (SQLAlchemyError, OptunaError, OSError) as error:
                # The database may be away for a while; the worker that asks then waits for the sampler.
                log.warning("could not draw a trial ahead: %s", error)

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        self._service.ending.put(None)
        self.join()
