"""Whose values a full run takes: the trial's own, or moved by a law; and what is written down of that choice."""

from __future__ import annotations

import math

import numpy as np

from sweeper.errors import SweeperError
from sweeper.moved import PATHS
from sweeper.observations_fits import Fits
from sweeper.observations_plan import FEWEST_CELLS, NO_SCORE, TransferPlan, data_hash, plan
from sweeper.observations_read import FitsStore
from sweeper.observations_recipe import counted
from sweeper.observations_speed import Clock
from sweeper.observations_trust import calibrations
from sweeper.planning import Basis, Choice
from sweeper.protocol import PromoteRequest
from sweeper.scaling import priors
from sweeper.scaling.power_law import PowerLaw, prior_law
from sweeper.scaling.records import Estimate
from sweeper.scaling.transfer import Candidate
from sweeper.service import Conflict
from sweeper.study_checks import leaves
from sweeper.transferred import (
    WORDS,
    By,
    Confirming,
    Interval,
    LawUsed,
    Proposal,
    StartedFrom,
    Transfer,
)
from trainer.config import PlanConfig

BY: dict[str, By] = {words: by for by, words in WORDS.items()}
SHAPE_POINTS = 400
"""Of a phase's rate, for its mean."""


def choose(store: FitsStore, basis: Basis, request: PromoteRequest, timed: Clock | None = None) -> Choice:
    """The candidate that was asked for; else the fitted law's, where it can be trusted unconfirmed, else the copy.

    A study that cannot be fitted is no obstacle to a copy: the reason is in its `why`.

    Args:
        timed: hours, in place of the basis's tokens: each candidate has as many as they hold at its own batch.

    Raises:
        SweeperError: a law was asked for that there is none of.
        Conflict: it has changed since the plan that the request agrees to.
    """
    try:
        fits = store.fits(basis.spec.name)
        with fits.lock:
            made = transfer_of(fits, basis, timed)
    except (SweeperError, ValueError) as error:  # the numerics refuse what they cannot fit
        if request.by not in (None, "copied"):
            raise SweeperError(f"no law can move these values: {error}; leave --by out to copy them") from error
        transfer = Transfer(chosen="copied", why=f"The values are copied, as no law can move them: {error}.")
        return Choice(transfer=transfer)
    with fits.lock:
        known = data_hash(fits)
        offered = {BY[one.name]: one for one in made.candidates}
        chosen, why = _chosen(made, fits, basis, request)
        if chosen not in offered:
            raise SweeperError(f"{_no_law(fits)}; --by prior does without, and leaving --by out copies the values")
        if chosen != "copied" and request.data_hash not in ("", known):
            raise Conflict("another run has ended since this plan was shown, and the laws with it: look at it again")
        earlier = tuple(f"Earlier: {one.words}." for one in calibrations(fits))
        notes = earlier if timed is None else (_of_hours(timed), *earlier)
        return Choice(transfer=_transfer(made, fits, basis, chosen, why, known), notes=notes)


def _of_hours(timed: Clock) -> str:
    hours = f"{timed.hours:g} hour{'' if timed.hours == 1 else 's'}"
    return (
        f"The tokens are those of {hours} at the speed of {timed.device}, from runs of the study or `sweeper bench`; "
        "the run ends by them, and not by the clock, so that it can be resumed exactly."
    )


def transfer_of(fits: Fits, basis: Basis, timed: Clock | None) -> TransferPlan:
    """The candidates of the basis's full run, or of the hours; within the lock of the fits.

    Raises:
        SweeperError: the laws hold no plan for it.
    """
    config = basis.copied
    counts = counted(config.to_dict())
    assert config.budget.tokens is not None, "full runs are measured in tokens"
    return plan(
        fits,
        tokens=None if timed else float(config.budget.tokens),
        seconds=timed.seconds if timed else None,
        step_time=timed.step_time if timed else None,
        trial=basis.run.number,
        n_params=None if counts is None else counts[fits.study.switches.params],
        mean_rate=_mean_rate(config.plan) if basis.phases else None,
    )


def _mean_rate(phases: PlanConfig) -> float:
    """Mean of rate / peak over all phases, by their tokens."""
    middles = (np.arange(SHAPE_POINTS) + 0.5) / SHAPE_POINTS
    means = [float(np.mean([phase.lr_factor(at) for at in middles])) for phase in phases.phases]
    weights = [phase.tokens for phase in phases.phases]
    return max(float(np.average(means, weights=weights)), 1e-6)


def _chosen(made: TransferPlan, fits: Fits, basis: Basis, request: PromoteRequest) -> tuple[By, str]:
    """Which candidate, and why in a sentence."""
    objection = _objection(made, fits, basis)
    if request.by is not None:
        if request.by != "copied" and (theirs := _overridden(basis)):
            raise SweeperError(f"{theirs}: take it out of the plan's [base], or leave --by out")
        if request.why:
            return request.by, request.why
        against = f"; by default they would be copied, as {objection}" if objection and request.by != "copied" else ""
        because = f", and {objection}" if objection and request.by == "copied" else ""
        return request.by, f"The values of the candidate '{WORDS[request.by]}' are asked for{against}{because}."
    if request.trial is not None:
        return "copied", f"Trial {request.trial} was named, so its values are copied; --by fitted moves them."
    if objection:
        return "copied", f"The values are copied, as {objection}."
    cells = made.laws.rate.used if made.laws.rate else 0
    return "fitted", f"The fitted law is taken: it rests on {cells} cells, and nothing calls for confirmation first."


def _objection(made: TransferPlan, fits: Fits, basis: Basis) -> str:
    """Why the law is not taken unasked; empty for no reason."""
    if theirs := _overridden(basis):
        return theirs
    if made.laws.rate is None:
        return _no_law(fits)
    if made.laws.rate.misfit.flagged:
        return f"the form of the rate's law does not fit the study ({made.laws.rate.misfit.detail})"
    if made.gate.needed:
        return f"the fitted law should be confirmed first: {'; '.join(made.gate.reasons)}"
    return ""


def _no_law(fits: Fits) -> str:
    cells = fits.rate_law.used
    return f"the study holds no law of its own: {cells} of {FEWEST_CELLS} cells needed have an optimum"


def _overridden(basis: Basis) -> str:
    """What a plan file sets of the values that a law would move; empty for nothing."""
    own = sorted(set(PATHS) & {path for path, _ in leaves(basis.phases.base)}) if basis.phases else []
    return f"the plan {basis.phases.name} sets {', '.join(own)} itself" if basis.phases and own else ""


def _transfer(made: TransferPlan, fits: Fits, basis: Basis, chosen: By, why: str, known: str) -> Transfer:
    moved = made.proposed if chosen == "copied" else next(c for c in made.candidates if BY[c.name] == chosen)
    gate = made.gate_of(moved)
    return Transfer(
        chosen=chosen,
        why=why,
        candidates=tuple(_proposal(each, made, fits, basis) for each in made.candidates),
        start=_started_from(made),
        laws=_laws(made, chosen),
        data_hash=known,
        runs=len(fits.trials.runs),
        confirms=BY[moved.name],
        because=gate.reasons,
        confirm=tuple(
            Confirming(
                tokens=round(run.tokens),
                steps=math.ceil(run.steps),
                batch_tokens=round(run.batch_tokens),
                learning_rate=run.learning_rate,
                weight_decay=run.weight_decay,
            )
            for run in gate.runs
        ),
        confirm_cost=gate.cost_share,
        notes=tuple(note for note in made.notes if not note.startswith(NO_SCORE)),  # each candidate says why
    )


def _proposal(one: Candidate, made: TransferPlan, fits: Fits, basis: Basis) -> Proposal:
    """The candidate as values of the full run; the copy's are the trial's to the bit."""
    own, values = basis.copied, one.values
    copied = one.name == "copied"
    batch = own.data.batch_tokens if copied else round(values.batch_tokens)
    rate = own.optim.matrix_lr if copied else values.learning_rate
    decay = own.optim.matrix_weight_decay if copied else values.weight_decay
    assert own.budget.tokens is not None
    tokens = own.budget.tokens if copied or made.target.tokens else int(values.steps) * batch
    unpredicted = _unpredicted(fits, basis)
    return Proposal(
        by=BY[one.name],
        learning_rate=rate,
        rate_factor=rate / own.optim.matrix_lr,
        weight_decay=decay,
        tau=values.tau if math.isfinite(values.tau) else None,
        batch_tokens=batch,
        beta2=own.optim.beta2 ** (batch / own.data.batch_tokens),
        steps=math.ceil(tokens / batch),
        tokens=tokens,
        best_rate=_interval(one.best_rate),
        shaded_octaves=one.shaded_octaves,
        capped=one.capped,
        predicted=None if unpredicted or one.predicted_loss is None else _interval(one.predicted_loss),
        unpredicted=unpredicted,
        notes=one.notes,
    )


def _unpredicted(fits: Fits, basis: Basis) -> str:
    """Why no score is foretold; empty where one is."""
    if basis.phases is not None:
        return "the law is one of a single schedule that cools down at its end, and a plan of phases is another"
    return "" if fits.loss_law else str(fits.loss_tries[0][1].not_identified)


def _started_from(made: TransferPlan) -> StartedFrom:
    start = made.start
    return StartedFrom(
        n_params=start.n_params,
        tokens=start.tokens,
        batch_tokens=start.batch_tokens,
        learning_rate=start.learning_rate,
        weight_decay=start.weight_decay,
        rate_deviation=start.rate_deviation,
        words=made.started_from,
    )


def _laws(made: TransferPlan, chosen: By) -> tuple[LawUsed, ...]:
    """Those that the candidate's values and its predicted score rest on: of a copy the score's alone."""
    start, laws, found = made.start, made.laws, []
    here = {"tokens": start.tokens, "batch_tokens": start.batch_tokens, "n_params": start.n_params}
    fitted = chosen != "prior"
    rate = laws.rate if fitted and laws.rate else prior_law(laws.rate_beliefs, here)
    found.append(_law("learning rate", rate))
    if chosen != "copied":
        batch = laws.batch if fitted and laws.batch else prior_law(priors.BATCH, {"tokens": start.tokens})
        tau = laws.tau if fitted and laws.tau else prior_law(priors.TAU, {"tokens_per_param": 20.0})
        found += [_law("batch", batch), _law("tau", tau)]
    if laws.loss is not None:
        exponents = {name: _interval(e) for name, e in laws.loss.exponents.items()}
        found.append(LawUsed(quantity="val_bpb", source="fitted", used=laws.loss.used, exponents=exponents))
    return tuple(found)


def _law(quantity: str, law: PowerLaw) -> LawUsed:
    exponents = {name: _interval(e) for name, e in law.exponents.items()}
    return LawUsed(quantity=quantity, source="fitted" if law.used else "prior", used=law.used, exponents=exponents)


def _interval(e: Estimate) -> Interval:
    return Interval(value=e.value, low=e.low, high=e.high)
