"""How a study stands, from a handful of aggregate queries: counts, best, device time, time to the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, func, inspect, select, text

from sweeper.origins import origin
from sweeper.records import Axis, Best, Counts, Promotion, RunningRun, StudySummary
from sweeper.tables import PromotionRow, RunRow
from sweeper.transferred import Confirms, Transfer

PRUNED_STATES = ("pruned", "diverged", "stopped")

# In Optuna's own tables.  The state is written out, as PostgreSQL compares its enum with no text parameter.
_QUEUED = text(
    "SELECT count(*) FROM trials JOIN studies ON studies.study_id = trials.study_id "
    "WHERE studies.study_name = :name AND trials.state = 'WAITING'"
)


def read(connection: Connection, study: Row[Any], now: float) -> StudySummary:
    """The summary of one row of `sweeper_studies` at the time `now`."""
    spec: dict[str, Any] = study.spec
    target = int(spec.get("trials", 0))
    queued = _queued(connection, study.name)
    counts = _counts(connection, study.id, target, queued)
    held = connection.execute(
        select(RunRow.__table__)
        .where(RunRow.study_id == study.id, RunRow.state == "running")
        .order_by(RunRow.kind, RunRow.number)
    ).all()
    full = promotions(connection, study.id)
    made = origin(connection, study.id)
    names = {one.number: one.name for one in full}
    running = tuple(_running(row, names) for row in held)
    ended_seconds = connection.scalar(
        select(func.sum(RunRow.wall_seconds)).where(RunRow.study_id == study.id, RunRow.state != "running")
    )
    speeds = [run.tokens_per_second for run in running if run.tokens_per_second is not None]
    return StudySummary(
        name=study.name,
        description=spec.get("description") or "",
        state=study.state,
        finished=counts.done >= target and not counts.running and not queued,
        profile=spec.get("profile") or "",
        target=target,
        counts=counts,
        judge=spec.get("judge") or "final",
        unit=made.unit,
        foreign=made.foreign,
        constraints={name: limit for name, limit in (spec.get("constraints") or {}).items() if limit is not None},
        infeasible=_infeasible(connection, study.id),
        best=_best(connection, study.id),
        gpu_seconds=float(ended_seconds or 0) + sum(max(row.wall_seconds, now - row.created_at) for row in held),
        eta_seconds=_eta(connection, study, counts, held, now),
        running=running,
        promotions=full,
        axes=axes(spec),
        budget={k: v for k, v in (spec.get("budget") or {}).items() if k not in ("rungs", "ladder") and v is not None},
        rungs=tuple((spec.get("budget") or {}).get("rungs") or ()),
        created_at=study.created_at,
        tokens_per_second=sum(speeds) if speeds else None,
    )


def rate(row: Row[Any]) -> float | None:
    """Tokens per training second of a run, None before its first step."""
    tokens, seconds = float(row.tokens), float(row.seconds)
    return tokens / seconds if seconds > 0 else None


def axes(spec: dict[str, Any]) -> tuple[Axis, ...]:
    """The searched values of a stored study file, in its order."""
    return tuple(_axis(path, axis) for path, axis in (spec.get("space") or {}).items())


def _axis(path: str, axis: dict[str, Any]) -> Axis:
    if axis.get("choice") is not None:
        return Axis(path=path, scale="choice", choices=tuple(axis["choice"]))
    kind = next(kind for kind in ("int", "uniform", "log") if isinstance(axis.get(kind), list))
    low, high = axis[kind]
    logarithmic = kind == "log" or bool(axis.get("log"))
    return Axis(
        path=path,
        scale="log" if logarithmic else "linear",
        low=low,
        high=high,
        integer=kind == "int",
        step=axis.get("step"),
    )


def _queued(connection: Connection, name: str) -> int:
    """Trials that wait in Optuna: values a user queued, beyond the target too, and trials to be tried again."""
    if not inspect(connection).has_table("trials"):  # no service has opened this database yet
        return 0
    return int(connection.scalar(_QUEUED, {"name": name}) or 0)


def _counts(connection: Connection, study_id: int, target: int, queued: int) -> Counts:
    of_study = (RunRow.study_id == study_id, RunRow.kind == "trial")
    newest = select(func.max(RunRow.id)).where(*of_study).group_by(RunRow.number)
    query = select(RunRow.state, func.count()).where(RunRow.id.in_(newest)).group_by(RunRow.state)
    by_state = {str(row[0]): int(row[1]) for row in connection.execute(query)}
    complete, running = by_state.get("complete", 0), by_state.get("running", 0)
    pruned = sum(by_state.get(state, 0) for state in PRUNED_STATES)
    return Counts(
        complete=complete,
        pruned=pruned,
        running=running,
        failed=by_state.get("failed", 0),
        waiting=max(queued, target - complete - pruned - running),
    )


def _best(connection: Connection, study_id: int) -> Best | None:
    row = connection.execute(
        select(RunRow.number, RunRow.params, RunRow.score)
        .where(RunRow.study_id == study_id, RunRow.kind == "trial", RunRow.state == "complete")
        .where(RunRow.score.is_not(None), RunRow.infeasible == "")
        .order_by(RunRow.score, RunRow.number)
        .limit(1)
    ).one_or_none()
    return None if row is None else Best(number=row.number, val_bpb=row.score, params=row.params)


def _infeasible(connection: Connection, study_id: int) -> int:
    query = select(func.count()).where(RunRow.study_id == study_id, RunRow.kind == "trial", RunRow.state == "complete")
    return int(connection.scalar(query.where(RunRow.infeasible != "")) or 0)


def _running(row: Row[Any], names_of_promotions: Mapping[int, str]) -> RunningRun:
    name = f"{row.kind} {row.number}"
    name = names_of_promotions.get(row.number, name) if row.kind == "promotion" else name
    names = (
        *("kind", "number", "attempt", "worker", "progress", "step", "tokens", "seconds", "train_loss"),
        *("val_bpb", "params", "started_at", "stop_requested"),
    )
    return RunningRun(name=name, tokens_per_second=rate(row), **{name: getattr(row, name) for name in names})


def _eta(connection: Connection, study: Row[Any], counts: Counts, held: Any, now: float) -> float | None:
    """Work left, each trial at the mean seconds of those that ended, shared by the runs in hand now."""
    trials = [row for row in held if row.kind == "trial"]
    mean = connection.scalar(
        select(func.avg(RunRow.wall_seconds)).where(
            RunRow.study_id == study.id,
            RunRow.kind == "trial",
            RunRow.state.in_(("complete", *PRUNED_STATES)),
        )
    )
    if not trials or mean is None or study.state != "running":
        return None
    left: float = counts.waiting * float(mean) + sum(max(0.0, float(mean) - (now - row.created_at)) for row in trials)
    return left / len(trials)


def promotions(connection: Connection, study_id: int) -> tuple[Promotion, ...]:
    """All promotions of the study, ascending, each at its newest attempt."""
    runs = connection.execute(
        select(RunRow.__table__).where(RunRow.study_id == study_id, RunRow.kind == "promotion").order_by(RunRow.attempt)
    )
    newest = {run.number: run for run in runs}
    rows = connection.execute(
        select(PromotionRow.__table__).where(PromotionRow.study_id == study_id).order_by(PromotionRow.number)
    )
    return tuple(_promotion(row, newest.get(row.number)) for row in rows)


def _promotion(row: Row[Any], run: Row[Any] | None) -> Promotion:
    taken = None if row.transfer is None else Transfer.model_validate(row.transfer).taken
    return Promotion(
        number=row.number,
        trial=row.trial_number,
        state=row.state,
        attempt=0 if run is None else run.attempt,
        progress=0.0 if run is None else run.progress,
        val_bpb=None if run is None else run.val_bpb if run.score is None else run.score,
        infeasible="" if run is None else run.infeasible,
        tokens=0 if run is None else run.tokens,
        planned_tokens=int(row.plan.get("tokens") or 0),
        seconds=0.0 if run is None else run.seconds,
        tokens_per_second=None if run is None else rate(run),
        reason="" if run is None else run.reason,
        created_at=row.created_at,
        ended_at=row.ended_at,
        by=row.candidate,
        confirms=_confirms(row.plan),
        hours=row.plan.get("hours"),
        foretold=taken.predicted if taken else None,
    )


def _confirms(plan: dict[str, Any]) -> str:
    told = plan.get("confirms")
    return Confirms.model_validate(told).words if told else ""
