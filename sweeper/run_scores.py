"""All that one run was scored: by every name, at every budget, and the artifact that it became."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Row, select

from sweeper.run_records import Artifact, Outcome, Score
from sweeper.tables import ExportRow, OutcomeRow, PointRow, ScoreRow

ORDER = ("streamed", "final", "sliding", "quantised", "quantised_sliding")


def scores(connection: Connection, run: Row[Any], judge: str) -> tuple[Score, ...]:
    """The scores of a run at its full budget, the streamed one of the curve's end included; none until it is
    complete."""
    if run.state != "complete":
        return ()
    outcome = select(OutcomeRow.__table__).where(OutcomeRow.run_id == run.id, OutcomeRow.budget.is_(None))
    outcome = outcome.order_by(OutcomeRow.tokens.desc())
    streamed = (
        select(PointRow.__table__)
        .where(PointRow.run_id == run.id, PointRow.fraction >= 1, PointRow.val_bpb.is_not(None))
        .order_by(PointRow.seq.desc())
    )
    named = select(ScoreRow.__table__).where(ScoreRow.run_id == run.id).order_by(ScoreRow.tokens)
    found: dict[str, Row[Any]] = {row.name: row for row in connection.execute(named)}
    for name, query in (("final", outcome), ("streamed", streamed)):
        row = connection.execute(query.limit(1)).one_or_none()
        if row is not None:
            found[name] = row
    return tuple(_score(name, found[name], judge) for name in ORDER if name in found)


def _score(name: str, row: Row[Any], judge: str) -> Score:
    values = row._mapping
    return Score(
        name=name,
        val_bpb=values["val_bpb"],
        stderr=values["val_bpb_stderr"],
        val_tokens=values.get("val_tokens"),
        eval_seconds=values.get("eval_seconds"),
        judges=name == judge,
    )


def final_loss(connection: Connection, run: int) -> float | None:
    """Of the outcome at the full budget, nats per token; None where there is none."""
    full = select(OutcomeRow.val_loss).where(OutcomeRow.run_id == run, OutcomeRow.budget.is_(None))
    loss: float | None = connection.scalar(full.order_by(OutcomeRow.tokens.desc()).limit(1))
    return loss


def outcomes(connection: Connection, runs: Collection[int]) -> tuple[Outcome, ...]:
    """The outcomes of one run at every budget, the full one last.

    Args:
        runs: its attempts, as a resumed one does not say again what the one before said; the newest counts.
    """
    query = select(OutcomeRow.__table__).where(OutcomeRow.run_id.in_(runs)).order_by(OutcomeRow.run_id)
    newest: dict[float, Row[Any]] = {
        math.inf if row.budget is None else row.budget: row for row in connection.execute(query)
    }
    return tuple(_outcome(newest[budget]) for budget in sorted(newest))


def _outcome(row: Row[Any]) -> Outcome:
    return Outcome(
        budget=row.budget,
        step=row.step,
        tokens=row.tokens,
        seconds=row.seconds,
        val_loss=row.val_loss,
        val_bpb=row.val_bpb,
        stderr=row.val_bpb_stderr,
        branch_seconds=row.branch_seconds,
    )


def artifact(connection: Connection, run: int) -> Artifact | None:
    """What the run exported; None where it did not."""
    row = connection.execute(select(ExportRow.__table__).where(ExportRow.run_id == run)).one_or_none()
    return None if row is None else Artifact(**{field.name: row._mapping[field.name] for field in fields(Artifact)})
