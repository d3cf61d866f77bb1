"""The service's own clockwork: leases that ran out, and what a crash left half done."""

from __future__ import annotations

import logging
import threading
from functools import partial

from optuna.exceptions import OptunaError
from optuna.trial import TrialState
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from sweeper import control, endings, handout, ingest, leases
from sweeper.full_forecast_watch import Watch
from sweeper.service import Service, spec_of
from sweeper.tables import RunRow, StudyRow

log = logging.getLogger(__name__)


def recover(service: Service) -> None:
    """Once, when the service starts: open leases get a fresh term, and unfinished business is finished."""
    leases.renew_all(service)
    reconcile(service, judge=True)


def sweep(service: Service) -> None:
    """Now and then: end leases that ran out, settle runs that ended while nobody could."""
    leases.expire(service)
    reconcile(service)


def reconcile(service: Service, *, judge: bool = False) -> None:
    """Bring Optuna up to date with our runs, study by study.

    Args:
        judge: also repeat the pruner's last decision on running trials; the service may have died between
            reporting a rung and giving the order.
    """
    with service.read() as session:
        studies = session.scalars(select(StudyRow).order_by(StudyRow.id)).all()
    for study in studies:
        with service.turn(study.id):
            _reconcile_study(service, study, judge)


def _reconcile_study(service: Service, study: StudyRow, judge: bool) -> None:
    search = service.search(spec_of(study))
    running = [trial.number for trial in search.trials(TrialState.RUNNING)]
    if not running:
        return
    with service.read() as session:
        runs = session.scalars(
            select(RunRow)
            .where(RunRow.study_id == study.id, RunRow.kind == "trial", RunRow.number.in_(running))
            .order_by(RunRow.id)
        ).all()
    for run in runs:
        if run.state != "running":
            endings.settle(service, search, run)
        elif judge:
            ingest.judge(service, search, run, again=True)
    if study.state == "stopped":
        control.drop_orphans(service, search, study.id)
    else:
        search.drop_surplus(partial(handout.with_runs, service, study.id))


class Reaper(threading.Thread):
    """Runs `sweep` four times a lease, until it is stopped, and looks whether full runs keep to their bands."""

    def __init__(self, service: Service) -> None:
        super().__init__(name="reaper", daemon=True)
        self._service = service
        self._watch = Watch(service)
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(self._service.settings.lease_seconds / 4):
            try:
                sweep(self._service)
                self._watch.look()
            except (SQLAlchemyError, OptunaError, OSError) as error:
                # The database may be away for a while; the next round finds the same work.
                log.warning("could not look after the leases: %s", error)

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        self._stopping.set()
        self.join()
