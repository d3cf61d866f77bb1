"""Values of a short run moved to a longer budget: three candidates, each with its uncertainty.

Schedules move as shares of the run, depth stays.  A faster device enters as S = T / t_step and in no other way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sweeper.scaling import priors, resample
from sweeper.scaling.batch import choose_batch
from sweeper.scaling.power_law import PowerLaw, prior_law
from sweeper.scaling.records import Array, Estimate
from sweeper.scaling.setting import Laws, Start, Target, sizes
from sweeper.scaling.shading import excess, shade

CEILING_OCTAVES = 0.5
"""A rate stays this far below the largest that did not diverge."""
UNKNOWN_TAU_AT_20 = 0.2
"""tau at 20 tokens a parameter where short runs never identified decay."""
SMALL_BATCH = 2.0
"""Up to this many times the best batch the rate grows as the law says; beyond, as `priors.PAST_BEST_BATCH`."""


@dataclass(frozen=True, kw_only=True)
class Values:
    """What the target run is to be given."""

    batch_tokens: float
    steps: float
    tokens: float
    learning_rate: float
    rate_factor: float
    """Over the start's rate: groups (matrix, scalar, embedding, head) move by it together."""
    weight_decay: float
    tau: float
    """Infinite without decay."""
    one_minus_beta2_factor: float
    """1 - beta2 grows as the batch."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    name: str
    """"copied", "prior law" or "fitted law"."""
    values: Values
    best_rate: Estimate
    """Where the law puts the best rate at the target, before shading and caps, with its 95 % prediction interval."""
    rate_deviation: float
    """Octaves: standard deviation of that."""
    shaded_octaves: float
    capped: bool
    predicted_loss: Estimate | None
    """With the expected price of a rate off its optimum; None without a loss law."""
    notes: tuple[str, ...]
    """What was assumed where the study did not know."""


def candidates(start: Start, target: Target, laws: Laws, seed: int = 0) -> tuple[Candidate, ...]:
    """Copied, prior law, and, where the study has one, fitted law: in that order.

    log2 rate1 = log2 rate0 + b log2(B1/B0) + d log2(D1/D0) + a log2(N1/N0), shaded low by the table of `shading`,
    capped half an octave below the largest stable rate; decay1 = 1 / (tau1 rate1 S1), tau1 = tau0 (TPP1/TPP0)^m.  All
    three losses are judged by the same belief about the best rate: the fitted law's, or the prior's without one.

    Raises:
        ValueError: see `choose_batch`.
    """
    believed = prior_law(laws.rate_beliefs, sizes(start.n_params, start.tokens, start.batch_tokens))
    prior = _by_law("prior law", start, target, laws, believed, prior_law(priors.BATCH, {"tokens": start.tokens}), None)
    fitted = None
    if laws.rate is not None:
        law = laws.batch or prior_law(priors.BATCH, {"tokens": start.tokens})
        fitted = _by_law("fitted law", start, target, laws, laws.rate, law, laws.tau)
    judge = laws.rate or believed
    made = [_copied(start, target, laws, judge), prior, *([fitted] if fitted else [])]
    return tuple(_with_loss(one, start, target, laws, judge, seed) for one in made)


def rate_shift(start: Start, target_sizes: dict[str, float], law: PowerLaw, best_batch: float) -> tuple[float, float]:
    """Octaves from the start's best rate to the target's, and the deviation: of exponents, start, and new scatter.

    Growth of the batch beyond twice the best one has the exponent `priors.PAST_BEST_BATCH` instead of the law's.
    """
    here = dict(sizes(start.n_params, start.tokens, start.batch_tokens))
    there = dict(target_sizes)
    knee = max(SMALL_BATCH * best_batch, start.batch_tokens)
    beyond = max(0.0, float(np.log2(there["batch_tokens"] / knee)))
    there["batch_tokens"] = min(there["batch_tokens"], knee)
    there["steps"] = there["tokens"] / there["batch_tokens"]
    octaves, deviation = law.shift(here, there)
    scatter = law.scatter_octaves if octaves or deviation else 0.0
    total = float(np.sqrt(deviation**2 + start.rate_deviation**2 + scatter**2))
    return octaves + priors.PAST_BEST_BATCH * beyond, total


def _by_law(
    name: str, start: Start, target: Target, laws: Laws, rate: PowerLaw, batch: PowerLaw, tau: PowerLaw | None
) -> Candidate:
    chosen = choose_batch(start, target, batch, laws.loss)
    there = dict(sizes(target.n_params, target.tokens_at(chosen), chosen))
    wanted = start.batch_tokens * 2.0 ** batch.shift({"tokens": start.tokens}, there)[0]
    octaves, deviation = rate_shift(start, there, rate, wanted)
    shaded = shade(deviation)
    aimed = start.learning_rate * 2.0 ** (octaves + shaded)
    ceiling = np.inf if laws.stable_rate is None else laws.stable_rate * 2.0**-CEILING_OCTAVES
    final = float(min(aimed, ceiling))
    tau1, notes = _tau(start, there, tau)
    decay = 1 / (tau1 * final * there["steps"] * target.mean_rate)
    return Candidate(
        name=name,
        values=_values(start, there, final, decay, tau1),
        best_rate=_best_rate(start.learning_rate * 2.0**octaves, deviation),
        rate_deviation=deviation,
        shaded_octaves=shaded,
        capped=bool(aimed > ceiling),
        predicted_loss=None,
        notes=notes,
    )


def _copied(start: Start, target: Target, laws: Laws, judge: PowerLaw) -> Candidate:
    """The run's rate, batch and decay as they are: what most people do, and the one to beat."""
    batch = start.given.batch_tokens if start.given else start.batch_tokens
    rate = start.given.learning_rate if start.given else start.learning_rate
    there = dict(sizes(target.n_params, target.tokens_at(batch), batch))
    octaves, deviation = rate_shift(start, there, judge, max(start.batch_tokens, batch))
    notes: tuple[str, ...] = ()
    decay = start.given.weight_decay if start.given else start.weight_decay
    if decay is None:
        tau, notes = _tau(start, there, None)
        decay = 1 / (tau * rate * there["steps"] * target.mean_rate)
    if laws.stable_rate is not None and rate > laws.stable_rate * 2.0**-CEILING_OCTAVES:
        notes += ("the rate lies within half an octave of the largest that did not diverge",)
    tau = 1 / (rate * decay * there["steps"] * target.mean_rate) if decay else np.inf
    return Candidate(
        name="copied",
        values=_values(start, there, rate, decay, tau),
        best_rate=_best_rate(start.learning_rate * 2.0**octaves, deviation),
        rate_deviation=deviation,
        shaded_octaves=0.0,
        capped=False,
        predicted_loss=None,
        notes=notes,
    )


def _values(start: Start, there: dict[str, float], rate: float, decay: float, tau: float) -> Values:
    return Values(
        batch_tokens=there["batch_tokens"],
        steps=there["steps"],
        tokens=there["tokens"],
        learning_rate=rate,
        rate_factor=rate / start.learning_rate,
        weight_decay=decay,
        tau=tau,
        one_minus_beta2_factor=there["batch_tokens"] / start.batch_tokens,
    )


def _tau(start: Start, there: dict[str, float], law: PowerLaw | None) -> tuple[float, tuple[str, ...]]:
    """tau at the target: the start's, moved by tokens per parameter; a default, and a note, where it has none."""
    held = law or prior_law(priors.TAU, {"tokens_per_param": 20.0})
    now = {"tokens_per_param": there["tokens_per_param"]}
    if start.tau is not None:
        octaves, _ = held.shift({"tokens_per_param": start.tokens / start.n_params}, now)
        return start.tau * 2.0**octaves, ()
    octaves, _ = held.shift({"tokens_per_param": 20.0}, now)
    note = f"decay was never identified: tau = {UNKNOWN_TAU_AT_20} at 20 tokens a parameter is assumed"
    return UNKNOWN_TAU_AT_20 * 2.0**octaves, (note,)


def _best_rate(rate: float, deviation: float) -> Estimate:
    return Estimate(rate, rate * 2.0 ** (-1.96 * deviation), rate * 2.0 ** (1.96 * deviation))


def _with_loss(one: Candidate, start: Start, target: Target, laws: Laws, judge: PowerLaw, seed: int) -> Candidate:
    """The loss law's prediction, times what the rate costs when the best one is drawn from the judge's belief."""
    if laws.loss is None:
        return one
    there = dict(sizes(target.n_params, one.values.tokens, one.values.batch_tokens))
    octaves, deviation = rate_shift(start, there, judge, max(start.batch_tokens, one.values.batch_tokens))
    drawn = laws.loss.sample(there)
    offset = np.log2(one.values.rate_factor) - octaves
    price = excess(offset - deviation * _normal(len(drawn), seed))
    samples: Array = np.exp(drawn) * (1 + price)
    central, _, _ = laws.loss.predict(there)
    value = float(central[0] * (1 + price.mean()))
    basis, objection = laws.loss.basis, laws.loss.objection
    said = (f"the predicted loss is {basis}",) if basis else ()
    doubts = (f"do not trust the predicted loss: {objection}",) if objection else ()
    predicted = resample.estimate(value, samples)
    return Candidate(**{**one.__dict__, "predicted_loss": predicted, "notes": (*one.notes, *said, *doubts)})


def _normal(count: int, seed: int) -> Array:
    """The same draws for every candidate, so that they differ by their rates and not by luck."""
    return np.random.default_rng([seed, count]).normal(size=count)
