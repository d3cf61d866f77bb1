"""The laws of a study as rows of a table: what is known, how surely, from how many runs, and what is not, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sweeper.observations_batch import critical_batch
from sweeper.observations_fits import Fits, reasons
from sweeper.observations_switches import LOSS_WORDS, RATE_WORDS
from sweeper.observations_trust import seed_noise
from sweeper.scaling.critical_batch import CriticalBatch
from sweeper.scaling.power_law import PowerLaw
from sweeper.scaling.records import Estimate, Excluded
from sweeper.scaling.step_time import NAMES, StepTime

NO_RATE = "no run states a rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class LawLine:
    """One quantity of one law."""

    law: str
    quantity: str
    unit: str
    value: float | None
    low: float | None
    high: float | None
    """95 %; None together with `value` where it is not identified."""
    used: int
    excluded: int
    method: str
    reason: str
    """Why there is no value, or what must be known of the one there is; empty for nothing."""


def lines(fits: Fits) -> list[LawLine]:
    """Every law, in the order in which a reader needs them."""
    with fits.lock:
        return [*_rate(fits), *_tau(fits), *_batch(fits), *_loss(fits), *_size(fits), *_speed(fits), *_noise(fits)]


def as_json(fits: Fits) -> dict[str, Any]:
    """The table with its conventions, and the trials that have no row, for scripts."""
    switches = fits.study.switches
    return {
        "study": fits.study.name,
        "parameters": fits.trials.runs.params_convention,
        "learning_rate": RATE_WORDS[switches.rate],
        "loss": f"{LOSS_WORDS[switches.loss]} ({fits.study.judge}), {fits.study.unit.words}",
        "score_unit": fits.study.unit.words,
        "runs": len(fits.trials.runs),
        "laws": [asdict(line) for line in lines(fits)],
        "cells": [_cell(fits, place) for place in range(len(fits.cells))],
        "excluded": [asdict(one) for one in fits.trials.excluded],
    }


def left_out(fits: Fits) -> list[tuple[str, int]]:
    """Why trials have no row, and how many for each reason; of one state they count together."""

    def alike(reason: str) -> str:
        state = reason.split(" at ")[0]
        return f"{state} before the end of its budget" if "has no final score" in reason else reason

    return reasons(tuple(Excluded(0, alike(one.reason)) for one in fits.trials.excluded))


def _cell(fits: Fits, place: int) -> dict[str, Any]:
    cell = fits.cells[place]
    at = cell.optimum.at[0] if cell.optimum.at else None
    return {
        **cell.sizes,
        "runs": len(cell.rows),
        "best_rate": asdict(at) if at else None,
        "loss": cell.optimum.loss_at,
        "not_identified": cell.optimum.not_identified,
    }


def _known(
    law: str, quantity: str, unit: str, e: Estimate, used: int, excluded: int, method: str, reason: str = ""
) -> LawLine:
    return LawLine(
        law=law,
        quantity=quantity,
        unit=unit,
        value=e.value,
        low=e.low,
        high=e.high,
        used=used,
        excluded=excluded,
        method=method,
        reason=reason,
    )


def _unknown(law: str, quantity: str, unit: str, used: int, excluded: int, reason: str | None) -> LawLine:
    return LawLine(
        law=law,
        quantity=quantity,
        unit=unit,
        value=None,
        low=None,
        high=None,
        used=used,
        excluded=excluded,
        method="",
        reason=str(reason),
    )


def _rate(fits: Fits) -> Iterator[LawLine]:
    law, cells = fits.rate_law, fits.cells
    longest = max(cells, key=lambda cell: (cell.tokens, bool(cell.optimum.at)), default=None)
    if longest is not None:
        at = f", batch {longest.batch_tokens:,.0f}" if fits.states("batch_tokens") else ""
        name = f"best rate at {longest.tokens:.3g} tokens{at}"
        unit, o = "per step", longest.optimum
        if o.at:
            yield _known("learning rate", name, unit, o.at[0], o.used, len(o.excluded), o.interval_method)
        else:
            yield _unknown("learning rate", name, unit, o.used, len(o.excluded), o.not_identified)
    if not isinstance(law, PowerLaw):
        unstated = "no two comparable runs have different rates" if fits.states("learning_rate") else NO_RATE
        reason = law.not_identified if cells else unstated
        yield _unknown("learning rate", "law over cells", "", law.used, len(law.excluded), reason)
        return
    yield from _exponents("learning rate", law)
    batch = fits.batch_law
    if batch is not None and {"tokens", "batch_tokens"} <= set(law.terms):
        along = law.along("tokens", "batch_tokens", batch.exponents["tokens"])
        name = "exponent of tokens, the batch at its best"
        yield _known("learning rate", name, "1", along, law.used, len(law.excluded), law.interval_method)


def _exponents(name: str, law: PowerLaw) -> Iterator[LawLine]:
    for term, e in law.exponents.items():
        prior = "the runs say nothing of it: this is the literature's" if law.learnt[term] < 0.1 else ""
        yield _known(name, f"exponent of {term}", "1", e, law.used, len(law.excluded), law.interval_method, prior)
    if law.misfit.flagged:
        yield _unknown(name, "form", "", law.used, 0, law.misfit.detail)


def _tau(fits: Fits) -> Iterator[LawLine]:
    found = fits.tau_collapse
    if found.tau is None:
        reason = found.not_identified if fits.states("learning_rate") else NO_RATE
        yield _unknown("decay", "tau", "share of the run", found.used, len(found.excluded), reason)
        return
    yield _known("decay", "tau", "share of the run", found.tau, found.used, len(found.excluded), found.interval_method)
    if fits.tau_law.used:
        yield from _exponents("decay", fits.tau_law)


def _batch(fits: Fits) -> Iterator[LawLine]:
    law, loss = fits.batch_law, fits.loss_law
    exponent = loss.best_batch_exponent() if loss else None
    if law is not None:
        yield from _exponents("batch", law)
    elif not fits.batch_optima:
        stated = fits.states("batch_tokens")
        reason = "no two runs of one model and budget have different batches" if stated else "no run states its batch"
        yield _unknown("batch", "best batch", "tokens", 0, 0, reason)
    else:
        reason = next((str(o.not_identified) for _, _, _, o in fits.batch_optima if not o.at), "only at equal seconds")
        yield _unknown("batch", "best batch at equal tokens", "tokens", 0, len(fits.batch_optima), reason)
    if exponent is not None and loss is not None:
        yield _known("batch", "exponent of tokens, by the loss law", "1", exponent, loss.used, 0, loss.interval_method)
    found = fits.get(critical_batch)
    if isinstance(found, CriticalBatch):
        e, why = found.batch_tokens, found.misfit.detail if found.misfit.flagged else ""
        yield _known("batch", "critical batch", "tokens", e, found.used, 0, found.interval_method, why)
    else:
        yield _unknown("batch", "critical batch", "tokens", found.used, 0, found.not_identified)


def _loss(fits: Fits) -> Iterator[LawLine]:
    law, unit = fits.loss_law, fits.study.unit.words
    for terms, tried in fits.loss_tries:
        if tried.not_identified:
            yield _unknown("loss", f"law of {', '.join(terms)}", unit, tried.used, 0, tried.not_identified)
    if law is None:
        return
    basis = f", {law.basis}" if law.basis else ""
    for term, e in law.exponents.items():
        yield _known("loss", f"exponent of {term}{basis}", "1", e, law.used, len(law.excluded), law.interval_method)
    if law.floor is not None:
        yield _known("loss", "floor", unit, law.floor, law.used, len(law.excluded), law.interval_method)
    else:
        yield _unknown("loss", "floor", unit, law.used, 0, law.floor_not_identified)
    if law.misfit.flagged:
        yield _unknown("loss", "form", "", law.used, 0, law.misfit.detail)


def _size(fits: Fits) -> Iterator[LawLine]:
    unit = fits.budget_rows[0]
    found = fits.frontier
    if found.law is not None:
        e, left = found.law.exponents["budget"], len(found.excluded)
        yield _known("model size", f"exponent of {unit}", "1", e, found.used, left, found.interval_method)
        return
    for one in found.budgets:
        if one.size is not None:
            name = f"best parameters at {one.budget:.3g} {unit}"
            yield _known("model size", name, "parameters", one.size, one.used, len(one.excluded), one.interval_method)
    yield _unknown("model size", f"exponent of {unit}", "1", found.used, len(found.excluded), found.not_identified)


def _speed(fits: Fits) -> Iterator[LawLine]:
    if not fits.step_times:
        yield _unknown("speed", "seconds a step", "s", 0, 0, "no run says its device's speed and its depth")
    for device, (rows, law) in fits.step_times.items():
        if not isinstance(law, StepTime):
            yield _unknown("speed", f"{device}: seconds a step", "s", len(rows), 0, law.not_identified)
            continue
        depth, batch = fits.trials.runs.depth[rows[-1]], fits.trials.runs.batch_tokens[rows[-1]]
        name = f"{device}: a step of {depth:.0f} layers, batch {batch:,.0f}"
        parts = ", ".join(f"{n} {c:.3g} s" for n, c in zip(NAMES, law.coefficients, strict=True) if c > 0)
        yield _known("speed", name, "s", law.seconds(depth, batch), law.used, 0, law.interval_method, parts)


def _noise(fits: Fits) -> Iterator[LawLine]:
    found = fits.get(seed_noise)
    name, unit = "standard deviation of repeats", fits.study.unit.words
    if found.deviation is None:
        yield _unknown("noise", name, unit, found.used, 0, found.not_identified)
    else:
        yield _known("noise", name, unit, found.deviation, found.used, 0, "chi-squared")
