"""A full run against its plan's criteria: one row a criterion, live and in the end.

Pure: facts in, rows out. A verdict is given before the end only where nothing can change it any more; what is forecast
is called so and decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from sweeper.criteria import SuccessCriteria as SuccessCriteria
from sweeper.saturation import token_saturation
from sweeper.scaling.records import Estimate, Unidentified
from sweeper.success_facts import CurveReading, Facts

Verdict = Literal["PASS", "FAIL", "not yet", "not known"]
ACTIVE_TOLERANCE = 0.01
"""Plans name a model by a rounded count (27.5M for 27,492,356 and for 27,500,548)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One criterion."""

    name: str
    wanted: str
    found: str
    number: float | None
    """What `found` says, for scripts; shares as shares."""
    verdict: Verdict
    reason: str
    """Why the verdict is `not yet`, `not known` or FAIL; empty for PASS."""
    forecast: str = ""
    """What is expected at the end, in words; empty for none."""
    note: str
    """The definition that was used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """The table and what it comes to."""

    verdict: Verdict
    reason: str
    rows: tuple[Row, ...]


NO_CRITERIA = Success(verdict="not known", reason="the plan names no criteria", rows=())


def judge(criteria: SuccessCriteria, facts: Facts) -> Success:
    """The table. Rows are there for the criteria that are set."""
    rows = (
        _active(criteria, facts),
        _tokens_per_active(criteria, facts),
        _tokens(criteria, facts),
        _hours(criteria, facts),
        _perplexity(criteria, facts),
        _saturation(criteria, facts),
        _skipped(criteria, facts),
    )
    return _overall(tuple(row for row in rows if row is not None), facts)


def _overall(rows: tuple[Row, ...], facts: Facts) -> Success:
    def named(verdict: Verdict) -> str:
        return ", ".join(row.name for row in rows if row.verdict == verdict)

    if failed := named("FAIL"):
        return Success(verdict="FAIL", reason=failed, rows=rows)
    if facts.live:
        return Success(verdict="not yet", reason=_how(facts), rows=rows)
    if unknown := named("not known"):
        return Success(verdict="not known", reason=unknown, rows=rows)
    if facts.state != "complete":
        return Success(verdict="not known", reason=f"{_how(facts)} before its end", rows=rows)
    return Success(verdict="PASS", reason="", rows=rows)


def _ending(good: bool, facts: Facts, why: str) -> dict[str, Any]:
    """Verdict and reason of what only the end decides."""
    if facts.live:
        return {"verdict": "not yet", "reason": _how(facts)}
    return {"verdict": "PASS", "reason": ""} if good else {"verdict": "FAIL", "reason": why}


def _how(facts: Facts) -> str:
    """The state in words that go on from `the run`."""
    words = {"running": "goes on", "waiting": "waits for a worker", "stopped": "was stopped", "complete": "is complete"}
    return f"the run {words.get(facts.state, facts.state)}"


def _unknown(why: str) -> dict[str, Any]:
    return {"number": None, "verdict": "not known", "reason": why}


def _active(criteria: SuccessCriteria, facts: Facts) -> Row | None:
    wanted, found = criteria.active_parameters, facts.active.count
    if wanted is None:
        return None
    same: dict[str, Any] = {"name": "active parameters", "wanted": f"{wanted:,} ± {ACTIVE_TOLERANCE:.0%}"}
    if found is None:
        return Row(**same, found="–", note="", **_unknown(facts.active.definition))
    off = found / wanted - 1
    good = abs(off) <= ACTIVE_TOLERANCE
    return Row(
        **same,
        found=f"{found:,}",
        number=found,
        verdict="PASS" if good else "FAIL",
        reason="" if good else f"{off:+.1%}",
        note=facts.active.definition,
    )


def _tokens_per_active(criteria: SuccessCriteria, facts: Facts) -> Row | None:
    wanted, active, tolerance = criteria.tokens_per_active, facts.active.count, criteria.tokens_tolerance
    if wanted is None:
        return None
    same: dict[str, Any] = {"name": "tokens per active parameter", "wanted": f"{wanted:g} ± {tolerance:.0%}"}
    note = f"trained targets of pretraining per active parameter: {facts.active.definition}"
    if active is None:
        return Row(**same, found="–", note=note, **_unknown(facts.active.definition))
    if facts.targets is None:
        found = f"at most {facts.positions / active:.1f}, by positions"
        return Row(**same, found=found, note=note, **_missing_targets(facts))
    ratio = facts.targets / active
    return Row(
        **same,
        found=f"{ratio:.1f}",
        number=ratio,
        forecast=f"{facts.planned_positions / active:.1f} by the plan" if facts.live else "",
        note=note,
        **_ending(abs(ratio / wanted - 1) <= tolerance, facts, f"{ratio / wanted - 1:+.1%}"),
    )


def _tokens(criteria: SuccessCriteria, facts: Facts) -> Row | None:
    wanted, tolerance = criteria.tokens, criteria.tokens_tolerance
    if wanted is None:
        return None
    same: dict[str, Any] = {
        "name": "trained tokens",
        "wanted": f"{wanted:,} targets ± {tolerance:.0%}",
        "note": "targets are positions with a prediction in the loss; of phases of kind pretrain",
    }
    if facts.targets is None:
        return Row(**same, found=f"{facts.positions:,} positions", **_missing_targets(facts))
    off = facts.targets / wanted - 1
    return Row(
        **same,
        found=f"{facts.targets:,} targets of {facts.positions:,} positions",
        number=facts.targets,
        forecast=f"{facts.planned_positions:,} positions by the plan" if facts.live else "",
        **_ending(abs(off) <= tolerance, facts, f"{off:+.1%}"),
    )


def _missing_targets(facts: Facts) -> dict[str, Any]:
    why = facts.targets_unknown or "the trainer has not said how many targets there were"
    return {"number": None, "verdict": "not yet" if facts.live else "not known", "reason": why}


def _hours(criteria: SuccessCriteria, facts: Facts) -> Row | None:
    if criteria.hours is None:
        return None
    hours = facts.held_seconds / 3600
    forecast, verdict = "", _ending(hours <= criteria.hours, facts, "took longer")
    if facts.live and facts.left_seconds is not None:
        forecast = f"{hours + facts.left_seconds / 3600:.2f} h at the present speed"
    if facts.live and hours > criteria.hours:
        verdict = {"verdict": "FAIL", "reason": "it is over already"}
    elif not facts.live and facts.state != "complete" and hours <= criteria.hours:
        verdict = {"verdict": "not known", "reason": f"{_how(facts)} before its end"}
    return Row(
        name="hours",
        wanted=f"at most {criteria.hours:g} h",
        found=f"{hours:.2f} h",
        number=hours,
        forecast=forecast,
        note="wall time for which devices were held, all attempts, set-up and validation included",
        **verdict,
    )


def _perplexity(criteria: SuccessCriteria, facts: Facts) -> Row | None:
    if criteria.reference_val_ppl is None:
        return None
    limit = criteria.reference_val_ppl * criteria.ppl_factor
    same: dict[str, Any] = {
        "name": "val PPL",
        "wanted": f"below {limit:.4g} ({criteria.ppl_factor:g} × {criteria.reference_val_ppl:g})",
        "note": "exp of the validation loss, in the end that after all phases; that the reference was measured on the "
        "same validation set with the same tokenizer is for you to see to",
    }
    if facts.val_loss is None:
        return Row(**same, found="–", **_missing(facts, "no validation yet"))
    found = math.exp(min(facts.val_loss, 700.0))
    forecast = ""
    if facts.live and facts.val_loss_forecast is not None:
        end = facts.val_loss_forecast
        forecast = f"{math.exp(end.value):.4g} ({math.exp(end.low):.4g} to {math.exp(end.high):.4g}) at the end"
    verdict = _ending(found < limit, facts, f"{found / limit - 1:+.1%} over the limit")
    if not facts.live and not facts.val_is_final:
        verdict = {"verdict": "not known", "reason": f"{_how(facts)} before its final validation"}
    which = "final" if facts.val_is_final else "streamed"
    return Row(**same, found=f"{found:.4g} ({which})", number=found, forecast=forecast, **verdict)


def _missing(facts: Facts, why: str) -> dict[str, Any]:
    return {"number": None, "verdict": "not yet" if facts.live else "not known", "reason": why}


def _saturation(criteria: SuccessCriteria, facts: Facts) -> Row | None:
    """Both definitions; S2 counts where it is identified on the newest part, else S1."""
    wanted, active, rate = criteria.saturation, facts.active.count, criteria.tokens_per_active
    if wanted is None:
        return None
    known = facts.targets is not None and active is not None and rate is not None
    by_tokens = token_saturation(facts.targets or 0, active or 1, rate or 1.0) if known else None
    curve = facts.curve
    by_curve = curve.saturation if curve and curve.newest and isinstance(curve.saturation, Estimate) else None
    counts = by_curve.value if by_curve else by_tokens
    verdict = _unknown("neither definition can be computed")
    if counts is not None:
        decided = _ending(counts >= wanted, facts, f"{counts:.1%} is less")
        verdict = {"number": counts, **decided}
    elif facts.live:
        verdict = _missing(facts, "neither definition can be computed yet")
    if by_curve and verdict["verdict"] == "PASS" and by_curve.low < wanted:
        verdict["reason"] = f"the interval reaches below {wanted:.0%}"
    first = "not known" if by_tokens is None else f"{by_tokens:.1%}"
    return Row(
        name="saturation",
        wanted=f"at least {wanted:.0%}",
        found=f"curve (S2) {_curve_words(curve)}; tokens (S1) {first}",
        note=f"{'S2' if by_curve else 'S1'} counts. S2: (L_start - L_now) / (L_start - L_inf), L_inf of a power law in "
        "tokens fitted to held-out losses at a constant rate, L_start = ln(words). S1: trained targets over "
        f"{'–' if rate is None else f'{rate:g}'} per active parameter",
        **verdict,
    )


def _curve_words(curve: CurveReading | None) -> str:
    if curve is None:
        return "not known: no part with a constant rate has begun"
    if isinstance(curve.saturation, Unidentified):
        return f"not known in {curve.part}: {curve.saturation.not_identified}"
    share = curve.saturation
    words = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%}) in {curve.part} at {curve.tokens:,} tokens"
    words += "" if curve.gain is None else f", where 10 % more tokens would take off {curve.gain:.2g} nats"
    return words if curve.newest else f"{words}; that part is over and does not count, and {curve.newest_refusal}"


def _skipped(criteria: SuccessCriteria, facts: Facts) -> Row:
    same: dict[str, Any] = {"name": "skipped batches", "wanted": f"at most {criteria.skipped_batches}"}
    note = "this trainer skips none: a loss that is not finite ends the run as diverged"
    if not facts.skips_are_known:
        return Row(**same, found="–", note="", **_unknown("a command of the study's own trains, and does not say"))
    if facts.state == "diverged":
        why = f"the run diverged{f': {facts.reason}' if facts.reason else ''}"
        return Row(**same, found="0, and then diverged", number=None, verdict="FAIL", reason=why, note=note)
    return Row(**same, found="0", number=0, note=note, **_ending(True, facts, ""))
