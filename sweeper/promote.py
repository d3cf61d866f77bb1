"""Promotion: a full run of one trial's values, or of a plan's own.  The plan first, then the row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from sweeper.choosing import choose
from sweeper.errors import SweeperError
from sweeper.observations_read import FitsStore
from sweeper.observations_recipe import recipe
from sweeper.observations_speed import clock
from sweeper.origins import origin
from sweeper.planning import make_plan
from sweeper.protocol import Done, PromoteRequest, PromotionPlan
from sweeper.results import Results
from sweeper.service import Conflict, Service, Unknown, find_study
from sweeper.study_checks import leaves
from sweeper.tables import PromotionRow, RunRow
from sweeper.transferred import CONFIRM


def promote(service: Service, name: str, request: PromoteRequest, store: FitsStore | None = None) -> PromotionPlan:
    """Plan a promotion and, unless `plan_only`, make it wait for a worker.

    Args:
        store: keeps the fits of studies between calls; None fits anew.

    Raises:
        Unknown: no such study or trial.
        Conflict: the trial has no score, or no trial has one yet; or the laws have changed since the plan agreed to.
        SweeperError: a token count of another form than `3B`, `500M`, `20x`, or an impossible one; hours of a device
            whose speed is not known; or a law asked for that the study does not
            hold; or runs made elsewhere that do not state their learning rate.
    """
    check_length(request)
    with service.read() as session:
        study = find_study(session, name)
        made = origin(session.connection(), study.id)
    if made.foreign and recipe(dict(leaves(made.config)), {}, None).learning_rate is None:
        raise SweeperError(
            f"study {name} was imported from runs that do not state their learning rate, so that no run here can have "
            "their values: import runs that do (--map COLUMN=optim.matrix_lr), or promote a trial of another study"
        )
    fits = store or FitsStore(service.engine, Results(service.engine))
    timed = None if request.hours is None else clock(fits, fits.fits(name), request.hours, request.gpu)
    held = timed.tokens if timed else None
    plan = make_plan(service, study, request, lambda basis: choose(fits, basis, request, timed), held)
    plan = plan.model_copy(update={"unit": made.unit})
    return plan if request.plan_only else store_runs(service, study.id, [plan])[0]


def check_length(request: PromoteRequest) -> None:
    """Refuse a request with two lengths, or with a device that has no say in it."""
    if request.hours is not None and (request.tokens is not None or request.by_hand):
        other = "a plan's own values have its length" if request.by_hand else f"--tokens {request.tokens} is another"
        raise SweeperError(f"--hours {request.hours:g} is one length and {other}: say one of the two")
    if request.gpu is not None and request.hours is None:
        raise SweeperError("--gpu says how fast --hours pass; with --tokens it has no effect")


def store_runs(service: Service, study_id: int, plans: Sequence[PromotionPlan]) -> list[PromotionPlan]:
    """Make them wait for workers, all or none; returns them numbered."""
    try:
        with service.write() as session:
            newest = session.scalar(select(func.max(PromotionRow.number)).where(PromotionRow.study_id == study_id))
            first = 0 if newest is None else newest + 1
            numbered = [plan.model_copy(update={"number": first + place}) for place, plan in enumerate(plans)]
            for plan in numbered:
                session.add(_row(service, study_id, plan))
            session.flush()
            for plan in numbered:
                verb, detail = _told(plan)
                service.audit(session, study_id, "user", verb, **detail)
    except IntegrityError:
        return store_runs(service, study_id, plans)  # another promotion took the number in this moment
    return numbered


def _row(service: Service, study_id: int, plan: PromotionPlan) -> PromotionRow:
    assert plan.number is not None
    chosen = "own" if plan.trial is None else plan.transfer.chosen if plan.transfer else "copied"
    return PromotionRow(
        study_id=study_id,
        number=plan.number,
        trial_number=plan.trial,
        plan=plan.model_dump(mode="json", exclude={"transfer"}),
        candidate=CONFIRM if plan.confirms else chosen,
        transfer=plan.transfer.model_dump(mode="json") if plan.transfer else None,
        state="waiting",
        created_at=service.now(),
    )


def _told(plan: PromotionPlan) -> tuple[str, dict[str, Any]]:
    detail: dict[str, Any] = {"promotion": plan.number, "trial": plan.trial, "tokens": plan.tokens}
    if plan.confirms:
        return "confirming", detail | {"by": plan.confirms.by, "factor": plan.confirms.factor}
    return "promoted", detail | ({"by": plan.transfer.chosen} if plan.transfer else {})


def stop_promotion(service: Service, name: str, number: int) -> Done:
    """Stop a promotion: at once when it waits, within a step when it runs; its checkpoint stays.

    Raises:
        Unknown: no such study or promotion.
        Conflict: it has ended.
    """
    with service.write() as session:
        study = find_study(session, name)
        promotion = session.scalar(
            select(PromotionRow)
            .where(PromotionRow.study_id == study.id, PromotionRow.number == number)
            .with_for_update()
        )
        if promotion is None:
            raise Unknown(f"study {name} has no promotion {number}")
        if promotion.state not in ("waiting", "running"):
            raise Conflict(f"promotion {number} of study {name} has ended: it is {promotion.state}")
        if promotion.state == "waiting":
            promotion.state, promotion.ended_at = "stopped", service.now()
        runs = session.scalars(
            select(RunRow)
            .where(RunRow.study_id == study.id, RunRow.kind == "promotion", RunRow.number == number)
            .where(RunRow.state == "running")
        )
        for run in runs:
            run.stop_requested = run.stop_requested or "user"
        service.audit(session, study.id, "user", "stopped promotion", promotion=number)
        waited = promotion.state == "stopped"
    what = "is stopped; it had not started" if waited else "is told to stop; its checkpoint stays"
    return Done(message=f"promotion {number} of study {name} {what}")
