"""What a study's laws say of runs it has not made: its full run, and the same seconds on a device of another speed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sweeper.errors import SweeperError
from sweeper.observations_fits import Fits
from sweeper.observations_plan import TransferPlan, plan
from sweeper.plan_file import token_count
from sweeper.scaling import priors
from sweeper.scaling.loss_law import LossLaw
from sweeper.scaling.power_law import PowerLaw, prior_law
from sweeper.scaling.records import Array, Estimate, Unidentified
from sweeper.scaling.setting import Start, Target, sizes
from sweeper.scaling.step_time import StepTime

SPEEDS = tuple(float(2.0**k) for k in np.arange(-3, 3.01, 0.5))
"""Of a device, over that of most trials: an eighth to eight times."""
BATCHES = 25
NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FullRun:
    """The run that the study is for."""

    tokens: float
    plan: TransferPlan
    tau_octaves: float
    """Standard deviation of log2 of its best tau."""


def full_run(fits: Fits) -> FullRun | Unidentified:
    """By the law that `sweeper plan` would propose, at the length that `sweeper promote` takes by default."""
    runs = fits.trials.runs
    if not len(runs):
        return Unidentified(used=0, not_identified="no run has a score yet")
    longest = round(fits.trials.longest_trial)
    tokens = float(sum(token_count(text, longest) for text in fits.study.full_run))
    try:
        made = plan(fits, tokens=tokens)
    except SweeperError as error:
        return Unidentified(used=len(runs), not_identified=str(error))
    return FullRun(tokens=tokens, plan=made, tau_octaves=_tau_octaves(fits, made))


def _tau_octaves(fits: Fits, made: TransferPlan) -> float:
    """Of where it was measured, and of the exponent that moves it."""
    start, there = made.start, made.proposed.values
    law = made.laws.tau or prior_law(priors.TAU, {"tokens_per_param": 20.0})
    per_param = {"tokens_per_param": start.tokens / start.n_params}
    _, moved = law.shift(per_param, {"tokens_per_param": there.tokens / made.target.n_params})
    known = fits.tau_collapse.tau
    measured = np.log2(known.high / known.low) / (2 * NORMAL_95) if known else priors.TAU_AT_20_OCTAVES
    return float(np.hypot(moved, measured))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a device of one speed wants in the same seconds."""

    step_seconds: float
    """At the reference run's batch and depth."""
    steps: float
    batch_tokens: Estimate
    learning_rate: Estimate
    weight_decay: Estimate
    n_params: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpeedView:
    """The laws through steps = seconds / (seconds a step)."""

    seconds: float
    start: Start
    device: str
    """Whose speed is scaled."""
    law: str
    wanted: tuple[Wanted, ...]
    devices: tuple[tuple[str, Estimate], ...]
    """Measured ones, and their seconds a step at the reference run's batch and depth."""
    missing: tuple[str, ...]


def speed_view(fits: Fits) -> SpeedView | Unidentified:
    """Batch, rate, decay and size over speed, for the seconds of the study's longest horizon on its usual device."""
    known = {name: (rows, law) for name, (rows, law) in fits.step_times.items() if isinstance(law, StepTime)}
    if not known:
        reason = "; ".join(f"{n}: {law.not_identified}" for n, (_, law) in fits.step_times.items())
        return Unidentified(used=0, not_identified=reason or "no run says its device's speed and its depth")
    device = max(known, key=lambda name: len(known[name][0]))
    times = known[device][1]
    assert isinstance(times, StepTime)
    try:
        start = plan(fits, tokens=fits.trials.longest_trial).start
        if start.depth is None:
            return Unidentified(used=0, not_identified="the depth of the best runs is not known")
        here = times.seconds(start.depth, start.batch_tokens).value
        seconds = start.steps * here
        made = [plan(fits, seconds=seconds, step_time=_faster(times, speed), reference=start) for speed in SPEEDS]
    except SweeperError as error:
        return Unidentified(used=0, not_identified=str(error))
    wanted = tuple(_wanted(fits, one, start, here / speed, speed) for one, speed in zip(made, SPEEDS, strict=True))
    laws = [(name, law) for name, (_, law) in known.items() if isinstance(law, StepTime)]
    return SpeedView(
        seconds=seconds,
        start=start,
        device=device,
        law=made[0].proposed.name,
        wanted=wanted,
        devices=tuple((name, law.seconds(start.depth, start.batch_tokens)) for name, law in laws),
        missing=() if fits.frontier.law else (f"size of the model: {fits.frontier.not_identified}",),
    )


def _faster(times: StepTime, speed: float) -> StepTime:
    return replace(times, coefficients=times.coefficients / speed, draws_Dp=times.draws_Dp / speed)


def _wanted(fits: Fits, made: TransferPlan, reference: Start, step_seconds: float, speed: float) -> Wanted:
    values, rate = made.proposed.values, made.proposed.best_rate
    octaves = NORMAL_95 * _tau_octaves(fits, made)
    decay = values.weight_decay
    return Wanted(
        step_seconds=step_seconds,
        steps=values.steps,
        batch_tokens=_batch(made),
        learning_rate=rate,
        weight_decay=Estimate(decay, decay * 2.0**-octaves, decay * 2.0**octaves),
        n_params=_size(fits, reference, speed),
    )


def _size(fits: Fits, start: Start, speed: float) -> Estimate | None:
    law = fits.frontier.law
    if law is None:
        return None
    unit = fits.budget_rows[0]
    budget = 6 * start.n_params * start.tokens if unit == "FLOPs" else float(np.median(fits.budget_rows[2]))
    return law.predict({"budget": budget * speed}, new_cell=False)


def _batch(made: TransferPlan) -> Estimate:
    """The proposed batch, with the wider of two intervals: of the law of batches and, where there is one, of loss."""
    value, laws = made.proposed.values.batch_tokens, made.laws
    law: PowerLaw = laws.batch or prior_law(priors.BATCH, {"tokens": made.start.tokens})
    _, octaves = law.shift({"tokens": made.start.tokens}, {"tokens": made.proposed.values.tokens})
    bounds = [value * 2.0 ** (-NORMAL_95 * octaves), value, value * 2.0 ** (NORMAL_95 * octaves)]
    if isinstance(laws.loss, LossLaw) and {"steps", "batch_tokens"} <= set(laws.loss.sizes):
        best = _least_of_each_draw(made.target, laws.loss)
        bounds += [float(bound) for bound in np.quantile(best, (0.025, 0.975))]
    return Estimate(value, min(bounds), max(bounds))


def _least_of_each_draw(target: Target, law: LossLaw) -> Array:
    """(D,) batches of least loss within the seconds of the target, one for each bootstrap draw of the law."""
    least = max(target.least_batch, target.batch_quantum)
    grid = np.geomspace(least, max(target.largest_batch, 2 * least), BATCHES)
    drawn = np.stack([law.sample(dict(sizes(target.n_params, target.tokens_at(float(b)), float(b)))) for b in grid])
    return np.asarray(grid[drawn.argmin(axis=0)])
