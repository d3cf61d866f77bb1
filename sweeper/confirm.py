"""Confirmation runs: the short runs that a law's candidate calls for before a full run is paid for.

They wait in the table of promotions, and are handed out, resumed and stopped as these are; what they come to is fitted
with the trials, at their own length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from sweeper.choosing import BY, transfer_of
from sweeper.errors import SweeperError
from sweeper.observations_fits import Fits
from sweeper.observations_plan import TransferPlan, data_hash
from sweeper.observations_read import FitsStore
from sweeper.observations_speed import Clock, clock
from sweeper.picking import scored
from sweeper.plan_file import token_count
from sweeper.plan_notes import goes_first
from sweeper.planning import Basis, asked_tokens, full_config, lay_out, waiting
from sweeper.promote import check_length, store_runs
from sweeper.protocol import ConfirmationPlan, PromoteRequest, PromotionPlan
from sweeper.results import Results
from sweeper.scaling.gate import LADDER, Confirmation
from sweeper.scaling.transfer import Candidate, Values
from sweeper.service import Conflict, Service, find_study, spec_of
from sweeper.tables import PromotionRow, StudyRow
from sweeper.transferred import CONFIRM, Confirms

COUNTED = ("waiting", "running", "complete", "diverged")
"""States of a run that is not made again."""
SAME = 0.01
"""Relative: runs whose rate, batch and tokens differ by less are one and the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moved:
    """A Destination."""

    learning_rate: float
    weight_decay: float
    batch_tokens: int
    beta2: float
    tokens: int


def confirm(service: Service, name: str, request: PromoteRequest, store: FitsStore | None = None) -> ConfirmationPlan:
    """Plan the runs that confirm a full run's values and, unless `plan_only`, make them wait for workers.

    Args:
        request: of the full run; `by` None confirms the fitted law's candidate, or the prior's where there is none.
        store: keeps the fits of studies between calls; None fits anew.

    Raises:
        Unknown: no such study or trial.
        Conflict: no trial has a score, or the laws have changed since the plan agreed to.
        SweeperError: an impossible length, a study that trains by a command, or that holds no such law.
    """
    check_length(request)
    with service.read() as session:
        study = find_study(session, name)
    kept = store or FitsStore(service.engine, Results(service.engine))
    fits = kept.fits(name)
    timed = None if request.hours is None else clock(kept, fits, request.hours, request.gpu)
    basis = _basis(service, study, request, timed)
    candidate, gate, known = _weighed(fits, basis, timed, request)
    full_tokens = round(candidate.values.tokens)
    runs = [
        _run(service, basis, values, factor, (candidate, gate, full_tokens), request.device_name)
        for factor, values in zip(LADDER, gate.runs, strict=False)
    ]
    there = _made_already(service, study, runs)
    plan = ConfirmationPlan(
        study=name,
        by=BY[candidate.name],
        full_tokens=full_tokens,
        because=list(gate.reasons),
        runs=[run for run, number in zip(runs, there, strict=True) if number is None],
        there=[number for number in there if number is not None],
        cost_share=gate.cost_share,
        data_hash=known,
        notes=[goes_first(name, row) for row in waiting(service, study) if row.candidate != CONFIRM],
    )
    if request.plan_only or not plan.runs:
        return plan
    return plan.model_copy(update={"runs": store_runs(service, study.id, plan.runs)})


def _weighed(
    fits: Fits, basis: Basis, timed: Clock | None, request: PromoteRequest
) -> tuple[Candidate, Confirmation, str]:
    """The candidate to confirm, what the gate says of it, and the hash of the rows that both rest on."""
    try:
        with fits.lock:
            made = transfer_of(fits, basis, timed)
            candidate, known = _candidate(made, request), data_hash(fits)
            gate = made.gate_of(candidate)
    except ValueError as error:  # the numerics refuse what they cannot fit
        raise SweeperError(f"no law can move the values of study {basis.spec.name}: {error}") from error
    if request.data_hash not in ("", known):
        raise Conflict("another run has ended since this plan was shown, and the laws with it: look at it again")
    return candidate, gate, known


def _basis(service: Service, study: StudyRow, request: PromoteRequest, timed: Clock | None) -> Basis:
    """The trial and the length of the full run; a plan of phases counts as one schedule of as many tokens."""
    spec = spec_of(study)
    if spec.trainer is not None:
        raise SweeperError(
            f"study {study.name} trains by a command, whose values no law moves: there is none to confirm"
        )
    run, outcome = scored(service, study, request.trial)
    if spec.plan is not None and request.tokens is None and timed is None:
        total = sum(token_count(phase.tokens, 0) for phase in spec.plan.phases)
        request = request.model_copy(update={"tokens": str(total)})
    tokens = asked_tokens(spec, request, run, outcome, timed.tokens if timed else None)
    return Basis(spec=spec, run=run, outcome=outcome, phases=None, copied=full_config(spec, None, run.config, tokens))


def _candidate(made: TransferPlan, request: PromoteRequest) -> Candidate:
    if request.by == "copied":
        raise SweeperError("a copy rests on no law, so that there is nothing to confirm: --by prior or --by fitted")
    offered = {BY[one.name]: one for one in made.candidates}
    if request.by is None:
        return made.proposed
    if request.by not in offered:
        raise SweeperError("the study holds no law of its own yet: leave --by out to confirm the literature's")
    return offered[request.by]


def _run(
    service: Service,
    basis: Basis,
    values: Values,
    factor: float,
    of: tuple[Candidate, Confirmation, int],
    device_name: str,
) -> PromotionPlan:
    candidate, gate, full_tokens = of
    own, batch = basis.copied, round(values.batch_tokens)
    to = _Moved(
        learning_rate=values.learning_rate,
        weight_decay=values.weight_decay,
        batch_tokens=batch,
        beta2=own.optim.beta2 ** (batch / own.data.batch_tokens),
        tokens=math.ceil(values.tokens / batch) * batch,
    )
    by = BY[candidate.name]
    why = Confirms(by=by, factor=factor, full_tokens=full_tokens, because=gate.reasons)
    return lay_out(service, basis, to, device_name).model_copy(update={"confirms": why})


def _made_already(service: Service, study: StudyRow, runs: Sequence[PromotionPlan]) -> list[int | None]:
    """For each run the number of one with equal values that is made or under way; None to make it."""
    known = select(PromotionRow).where(PromotionRow.study_id == study.id, PromotionRow.candidate == CONFIRM)
    with service.read() as session:
        rows = session.scalars(known.where(PromotionRow.state.in_(COUNTED)).order_by(PromotionRow.id)).all()
    return [next((row.number for row in rows if _alike(row.plan, run)), None) for run in runs]


def _alike(plan: dict[str, Any], run: PromotionPlan) -> bool:
    if plan["config"]["model"] != run.config["model"]:
        return False
    pairs = [(plan["tokens"], run.tokens)]
    for section, key in (("data", "batch_tokens"), ("optim", "matrix_lr")):
        pairs.append((plan["config"][section][key], run.config[section][key]))
    return all(math.isclose(one, other, rel_tol=SAME) for one, other in pairs)
