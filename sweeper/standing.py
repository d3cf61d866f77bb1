"""From a promotion's plan and its run to how it stands: phases, time left, loss against its law, success."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sweeper import success
from sweeper.criteria import SuccessCriteria
from sweeper.phase_plan import Part, constant_parts, foretold_loss, phases_of
from sweeper.promotion_records import LossCurve, Parameters, Phase, Sample, Standing
from sweeper.run_records import Message, RunDetail, RunPoints
from sweeper.saturation import CurveLaw, curve_saturation, fit_curve, forecast
from sweeper.scaling.records import Array, Estimate, Unidentified
from sweeper.success_facts import Active, CurveReading, Facts, active_parameters
from sweeper.transferred import Transfer

MOST_SAMPLES = 40
RECENT_POINTS = 15
"""Over which the present speed is the median."""
COUNTS = {
    "active": "active",
    "nodes": "nodes of the graph",
    "body": "body (nodes, merges, recurrence, halting)",
    "never_trained": "of which never trained",
    "embedding": "embedding",
    "tied_total": "total, embedding tied",
}
"""What a Start says of a model, and in which words it is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """What the end alone tells."""

    val_loss: float
    """Of the Outcome, nats per token."""


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """A part of the run with a constant rate, its points and their law."""

    part: Part
    tokens: Array
    loss: Array
    law: CurveLaw | Unidentified


def standing(
    run: RunDetail,
    plan: dict[str, Any],
    state: str,
    final: Final | None,
    now: float,
    transfer: dict[str, Any] | None = None,
) -> Standing:
    """How the promotion stands.

    Args:
        plan: as the promotion stored it (a PromotionPlan); a plan without phases is one schedule.
        state: of the promotion.
        final: None until it is complete.
        now: Unix seconds.
        transfer: as the promotion stored it (a Transfer).
    """
    config: dict[str, Any] = run.config
    planned = int(plan.get("tokens") or 0)
    tokens = max(run.row.tokens, int(run.points.tokens.max(initial=0)))
    speed = _speed(run, plan)
    held = sum(now - a.created_at if a.state == "running" else a.wall_seconds for a in run.attempts)
    live = state in ("waiting", "running")
    slower = _overhead(run, held)
    left = (planned - tokens) / speed * slower if live and speed and planned else None
    phases = _timed(phases_of(config, tokens, state), run, tokens, None if not live or not speed else slower / speed)
    at, loss = _held_out(run.points)
    readings = _readings(config, phases, planned, tokens, at, loss)
    model: dict[str, Any] = _start(run.messages).get("model") or {}
    active = active_parameters(model, config, run.parameters)
    moved = Transfer.model_validate(transfer) if transfer else None
    result = Standing(
        state=state,
        tokens=tokens,
        planned_tokens=planned,
        phases=phases,
        tokens_per_second=speed,
        held_seconds=held,
        left_seconds=None if left is None else max(0.0, left),
        curve=_curve(at, loss, readings, phases),
        samples=_samples(run.messages),
        parameters=None if run.parameters is None else _parameters(model, active, run.parameters, config),
        success=success.NO_CRITERIA,
        transfer=moved,
        foretold_loss=foretold_loss(moved, run.points),
    )
    criteria = plan.get("success")
    if not criteria:
        return result
    facts = _facts(result, run, active, readings, final)
    return replace(result, success=success.judge(SuccessCriteria.model_validate(criteria), facts))


def _speed(run: RunDetail, plan: dict[str, Any]) -> float | None:
    """Tokens a training second of late, else of the whole run, else as planned."""
    said = run.points.tokens_per_second
    said = said[np.isfinite(said)][-RECENT_POINTS:]
    if len(said):
        return float(np.median(said)) or None
    return run.row.tokens_per_second or plan.get("tokens_per_second") or None


def _overhead(run: RunDetail, held: float) -> float:
    """Wall seconds for each training second so far, set-ups apart: validation, checkpoints, what a kill cost."""
    setup = sum(float(m.body.get("setup_seconds") or 0) for m in run.messages if m.kind == "start")
    trained = _trained_seconds(run)
    return max(1.0, (held - setup) / trained) if trained > 0 else 1.0


def _trained_seconds(run: RunDetail) -> float:
    """Training seconds so far; an attempt that has just begun says 0, its curve those of the ones before."""
    return max(run.row.seconds, float(run.points.seconds.max(initial=0)))


def _timed(phases: Sequence[Phase], run: RunDetail, tokens: int, seconds_a_token: float | None) -> tuple[Phase, ...]:
    """The phases with the time that they took and that is left until their ends."""
    said = [m.body for m in run.messages if m.kind == "phase" and (m.body.get("tokens") or 0) <= tokens]
    began = {int(body.get("index", -1)): float(body.get("seconds") or 0) for body in said}
    timed = []
    for phase in phases:
        over = began.get(phase.index + 1, _trained_seconds(run))
        spent = over - began[phase.index] if phase.index in began else None
        left = (phase.end - tokens) * seconds_a_token if seconds_a_token and phase.end > tokens else None
        timed.append(replace(phase, seconds=spent, left_seconds=left))
    return tuple(timed)


def _held_out(points: RunPoints) -> tuple[Array, Array]:
    """Tokens and losses of the validations, ascending; of two at the same place the later one."""
    finite = np.isfinite(points.val_loss) & (points.val_loss > 0) & (points.tokens > 0)
    at, loss = points.tokens[finite][::-1], points.val_loss[finite][::-1]
    places, first = np.unique(at, return_index=True)
    return places, loss[first]


def _readings(
    config: dict[str, Any], phases: Sequence[Phase], planned: int, tokens: int, at: Array, loss: Array
) -> list[_Reading]:
    """The parts that have begun, oldest first."""
    found = []
    for part in constant_parts(config, phases, planned):
        if part.begin < tokens:
            inside = (at > part.begin) & (at <= part.end)
            found.append(_Reading(part, at[inside], loss[inside], fit_curve(at[inside], loss[inside])))
    return found


def _curve(at: Array, loss: Array, readings: Sequence[_Reading], phases: Sequence[Phase]) -> LossCurve:
    present = next((p for p in phases if p.state not in ("complete", "waiting", "not reached")), None)
    if not readings:
        return LossCurve(
            tokens=at, loss=loss, part="", band=Unidentified(used=0, not_identified="no constant rate yet")
        )
    newest = readings[-1]
    if present is not None and present.name != newest.part.name:
        why = f"the law is one of constant rates, and {present.name} has none in pretraining"
        return LossCurve(tokens=at, loss=loss, part="", band=Unidentified(used=0, not_identified=why))
    band = forecast(newest.law, newest.tokens, newest.part.end)
    return LossCurve(tokens=at, loss=loss, part=newest.part.name, band=band)


def _facts(
    result: Standing,
    run: RunDetail,
    active: Active,
    readings: Sequence[_Reading],
    final: Final | None,
) -> Facts:
    own = [phase for phase in result.phases if phase.kind == "pretrain"]
    positions = sum(phase.trained for phase in own) if result.phases else result.tokens
    planned = sum(phase.tokens for phase in own) if result.phases else result.planned_tokens
    targets, unknown = _targets(result, run, positions)
    losses = result.curve.loss
    streamed = float(losses[-1]) if len(losses) else None
    band, newest = result.curve.band, readings[-1].part if readings else None
    to_the_end = newest is not None and newest.end >= result.planned_tokens
    return Facts(
        state=result.state,
        reason=run.row.reason,
        active=active,
        planned_positions=planned,
        positions=positions,
        targets=targets,
        targets_unknown=unknown,
        held_seconds=result.held_seconds,
        left_seconds=result.left_seconds,
        val_loss=streamed if final is None else final.val_loss,
        val_is_final=final is not None,
        val_loss_forecast=None if isinstance(band, Unidentified) or not to_the_end else band.end,
        curve=_saturation(readings, run.config),
        skips_are_known="optim" in run.config and "command" not in run.config,
    )


def _targets(result: Standing, run: RunDetail, positions: int) -> tuple[int | None, str]:
    """Targets trained in pretraining, or why they are not known."""
    own = [phase for phase in result.phases if phase.kind == "pretrain"]
    by_document = any(phase.windows == "documents" for phase in own)
    if not result.phases:
        by_document = (run.config.get("data") or {}).get("windows") == "documents"
    if not by_document:
        return positions, ""
    if len(own) < len(result.phases):
        return None, "the trainer counts targets of the whole run, not of its phases of kind pretrain"
    end = next((m.body for m in reversed(run.messages) if m.kind == "end"), None)
    if end is None or result.state in ("waiting", "running"):
        return None, "windows by documents have fewer targets than positions; the trainer counts them at the end"
    return int(end["targets"]) if end.get("targets") is not None else positions, ""


def _saturation(readings: Sequence[_Reading], config: dict[str, Any]) -> CurveReading | None:
    """S2 of the newest part on which it is identified, else why it is not on the newest."""
    if not readings:
        return None
    made = [_saturation_of(reading, config, newest=reading is readings[-1]) for reading in readings]
    found = next((m for m in reversed(made) if isinstance(m.saturation, Estimate)), made[-1])
    newest = made[-1].saturation
    if isinstance(newest, Unidentified):
        return replace(found, newest_refusal=f"{made[-1].part} has none: {newest.not_identified}")
    return found


def _saturation_of(reading: _Reading, config: dict[str, Any], newest: bool) -> CurveReading:
    part, law = reading.part.name, reading.law
    words = (config.get("model") or {}).get("vocab_size")
    refused = ""
    if not words:
        refused = "the config names no vocabulary, so that L_start is not known"
    elif not len(reading.loss):
        refused = "no validation yet"
    elif reading.loss[-1] >= math.log(words):
        refused = "the loss is not below that of a model that knows nothing"
    if refused or not words:
        return CurveReading(part=part, newest=newest, saturation=Unidentified(used=0, not_identified=refused))
    at = int(reading.tokens[-1])
    return CurveReading(
        part=part,
        newest=newest,
        saturation=curve_saturation(law, math.log(words), float(reading.loss[-1])),
        tokens=at,
        gain=None if isinstance(law, Unidentified) else law.gain(0.1, at),
    )


def _samples(messages: Sequence[Message]) -> tuple[Sample, ...]:
    said = [message for message in messages if message.kind == "sample"][-MOST_SAMPLES:]
    return tuple(
        Sample(
            at=message.at,
            step=int(message.body.get("step") or 0),
            tokens=int(message.body.get("tokens") or 0),
            prompt=_text(message.body, "prompt", "prompt_ids"),
            text=_text(message.body, "text", "ids"),
        )
        for message in reversed(said)
    )


def _text(body: dict[str, Any], name: str, ids: str) -> str:
    """A text of a Sample; where nobody has turned its ids into text, the ids."""
    return str(body.get(name) or " ".join(map(str, body.get(ids) or ())))


def _start(messages: Sequence[Message]) -> dict[str, Any]:
    return next((message.body for message in reversed(messages) if message.kind == "start"), {})


def _parameters(model: dict[str, Any], active: Active, parameters: int, config: dict[str, Any]) -> Parameters:
    counts = [(label, int(model[name])) for name, label in COUNTS.items() if name in model]
    if not counts:
        rest = [] if active.count is None else [("active", active.count), ("embedding", parameters - active.count)]
        counts = [*rest, ("total", parameters)]
    pairs = (edge.partition(">") for edge in str(model.get("edges") or "").split())
    edges = tuple((int(source), int(target)) for source, _, target in pairs)
    return Parameters(
        counts=tuple(counts),
        definition=active.definition,
        edges=edges,
        topology_hash=str(model.get("topology_hash") or ""),
    )
