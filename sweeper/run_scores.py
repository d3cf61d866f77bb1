"""All that one run was scored: by every name, and the artifact that it became."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Row, select

from sweeper.run_records import Artifact, Score
from sweeper.tables import ExportRow, OutcomeRow, PointRow, ScoreRow

ORDER = ("streamed", "final", "sliding", "quantised", "quantised_sliding")


def scores(connection: Connection, run: Row[Any], judge: str) -> tuple[Score, ...]:
    """The scores of a run at its largest budget, the streamed one of the curve's end included; none until it is
    complete."""
    if run.state != "complete":
        return ()
    outcome = select(OutcomeRow.__table__).where(OutcomeRow.run_id == run.id).order_by(OutcomeRow.tokens.desc())
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


def artifact(connection: Connection, run: int) -> Artifact | None:
    """What the run exported; None where it did not."""
    row = connection.execute(select(ExportRow.__table__).where(ExportRow.run_id == run)).one_or_none()
    return None if row is None else Artifact(**{field.name: row._mapping[field.name] for field in fields(Artifact)})
