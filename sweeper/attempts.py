"""Attempts at a trial or a promotion: the newest, which stands for it; all of them; and those at the same values."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, func, select

from sweeper import summary
from sweeper.protocol import RunKind
from sweeper.records import TrialRow
from sweeper.run_records import Attempt
from sweeper.tables import ExportRow, OutcomeRow, RunRow


def of(study_id: int, kind: RunKind, number: int | None = None) -> Select[Any]:
    """All columns of all attempts, or of those at one number, the earliest first."""
    query = select(RunRow.__table__).where(RunRow.study_id == study_id, RunRow.kind == kind)
    query = query if number is None else query.where(RunRow.number == number)
    return query.order_by(RunRow.number, RunRow.attempt)


def newest(study_id: int, kind: RunKind) -> Select[Any]:
    """Columns of a TrialRow for the newest attempt of each number, with the outcome at the full budget."""
    of_study = and_(RunRow.study_id == study_id, RunRow.kind == kind)
    latest = select(func.max(RunRow.id)).where(of_study).group_by(RunRow.number)
    final, final_stderr = (
        select(column)
        .where(OutcomeRow.run_id == RunRow.id, OutcomeRow.budget.is_(None))
        .order_by(OutcomeRow.tokens.desc())
        .limit(1)
        .scalar_subquery()
        for column in (OutcomeRow.val_bpb, OutcomeRow.val_bpb_stderr)
    )
    size = select(ExportRow.artifact_bytes).where(ExportRow.run_id == RunRow.id).scalar_subquery()
    columns = (
        *(RunRow.id, RunRow.number, RunRow.state, RunRow.reason, RunRow.attempt, RunRow.params),
        *(RunRow.val_bpb, RunRow.progress, RunRow.tokens, RunRow.seconds, RunRow.wall_seconds),
        *(RunRow.train_loss, RunRow.created_at, RunRow.started_at, RunRow.ended_at, RunRow.worker),
        *(RunRow.device, RunRow.device_name, RunRow.stop_requested),
        *(RunRow.score, RunRow.score_stderr, RunRow.infeasible),
        *(final.label("final"), final_stderr.label("final_stderr"), size.label("artifact_bytes")),
    )
    return select(*columns).where(RunRow.id.in_(latest)).order_by(RunRow.number)


def record(row: Row[Any]) -> TrialRow:
    """A row of `newest`."""
    return TrialRow(
        run=row.id,
        number=row.number,
        state=row.state,
        reason=row.reason,
        attempt=row.attempt,
        params=row.params,
        score=row.score,
        score_stderr=row.score_stderr,
        infeasible=row.infeasible,
        final_val_bpb=row.final if row.state == "complete" else None,
        final_val_bpb_stderr=row.final_stderr if row.state == "complete" else None,
        artifact_bytes=row.artifact_bytes,
        streamed_val_bpb=row.val_bpb,
        progress=row.progress,
        tokens=row.tokens,
        seconds=row.seconds,
        wall_seconds=row.wall_seconds,
        tokens_per_second=summary.rate(row),
        train_loss=row.train_loss,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        worker=row.worker,
        device=row.device,
        device_name=row.device_name,
        stop_requested=row.stop_requested,
    )


def kin(connection: Connection, study_id: int, kind: RunKind, attempts: Collection[Row[Any]]) -> tuple[Attempt, ...]:
    """All attempts of a promotion; of a trial, every run of the study with the same values, as a trial that
    is tried again gets a number of its own."""
    runs: Collection[Row[Any]] = attempts
    if kind == "trial":
        params = next(iter(attempts)).params
        query = of(study_id, kind).with_only_columns(RunRow.id, RunRow.params)
        same = [row.id for row in connection.execute(query) if row.params == params]
        runs = connection.execute(select(RunRow.__table__).where(RunRow.id.in_(same)).order_by(RunRow.id)).all()
    names = ("number", "attempt", "state", "reason", "worker", "created_at", "ended_at", "wall_seconds")
    return tuple(Attempt(**{name: getattr(run, name) for name in names}) for run in runs)
