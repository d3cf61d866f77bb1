"""Promotion: a full run of one trial's values, or of a plan's own.  The plan first, then the row."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from sweeper.choosing import choose
from sweeper.observations_read import FitsStore
from sweeper.planning import make_plan
from sweeper.protocol import Done, PromoteRequest, PromotionPlan
from sweeper.results import Results
from sweeper.service import Conflict, Service, Unknown, find_study
from sweeper.tables import PromotionRow, RunRow


def promote(service: Service, name: str, request: PromoteRequest, store: FitsStore | None = None) -> PromotionPlan:
    """Plan a promotion and, unless `plan_only`, make it wait for a worker.

    Args:
        store: keeps the fits of studies between calls; None fits anew.

    Raises:
        Unknown: no such study or trial.
        Conflict: the trial has no score, or no trial has one yet; or the laws have changed since the plan agreed to.
        SweeperError: a token count of another form than `3B`, `500M`, `20x`, or an impossible one; or a law asked for
            that the study does not hold.
    """
    with service.read() as session:
        study = find_study(session, name)
    fits = store or FitsStore(service.engine, Results(service.engine))
    plan = make_plan(service, study, request, lambda basis: choose(fits, basis, request))
    return plan if request.plan_only else _store(service, study.id, plan)


def _store(service: Service, study_id: int, plan: PromotionPlan) -> PromotionPlan:
    try:
        with service.write() as session:
            newest = session.scalar(select(func.max(PromotionRow.number)).where(PromotionRow.study_id == study_id))
            numbered = plan.model_copy(update={"number": 0 if newest is None else newest + 1})
            session.add(
                PromotionRow(
                    study_id=study_id,
                    number=numbered.number,
                    trial_number=plan.trial,
                    plan=numbered.model_dump(mode="json", exclude={"transfer"}),
                    candidate="own" if plan.trial is None else plan.transfer.chosen if plan.transfer else "copied",
                    transfer=plan.transfer.model_dump(mode="json") if plan.transfer else None,
                    state="waiting",
                    created_at=service.now(),
                )
            )
            session.flush()
            detail: dict[str, Any] = {"promotion": numbered.number, "trial": plan.trial, "tokens": plan.tokens}
            detail |= {"by": plan.transfer.chosen} if plan.transfer else {}
            service.audit(session, study_id, "user", "promoted", **detail)
    except IntegrityError:
        return _store(service, study_id, plan)  # another promotion took the number in this moment
    return numbered


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
