"""What a run that reached its budget is worth: the score that judges it, and by how much it breaks a limit."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from sweeper.scores import Judge
from sweeper.study_file import Constraints
from sweeper.tables import ExportRow, OutcomeRow, PointRow, RunRow, ScoreRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A score, and what it may be off by."""

    val_bpb: float
    stderr: float | None


def outcome(session: Session, run: int) -> OutcomeRow | None:
    """The outcome of a run at its full budget; None where it has not come so far. Smaller budgets do not count."""
    full = select(OutcomeRow).where(OutcomeRow.run_id == run, OutcomeRow.budget.is_(None))
    return session.scalars(full.order_by(OutcomeRow.tokens.desc())).first()


def judged(session: Session, run: RunRow, judge: Judge) -> Judged | None:
    """The score that ranks the run; None where it has none of that name."""
    if judge == "streamed":
        at_end = (PointRow.run_id == run.id, PointRow.fraction >= 1, PointRow.val_bpb.is_not(None))
        point = session.scalars(select(PointRow).where(*at_end).order_by(PointRow.seq.desc())).first()
        if point is None or point.val_bpb is None:
            return None
        return Judged(val_bpb=point.val_bpb, stderr=point.val_bpb_stderr)
    found: OutcomeRow | ScoreRow | None
    if judge == "final":
        found = outcome(session, run.id)
    else:
        scores = select(ScoreRow).where(ScoreRow.run_id == run.id, ScoreRow.name == judge)
        found = session.scalars(scores.order_by(ScoreRow.tokens.desc())).first()
    return None if found is None else Judged(val_bpb=found.val_bpb, stderr=found.val_bpb_stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a limit is held against."""

    name: str
    limit: int
    value: int

    @property
    def excess(self) -> float:
        """Above 0 where the limit is broken, as a share of it: bytes of a disc and of memory weigh alike."""
        return (self.value - self.limit) / self.limit

    @property
    def words(self) -> str:
        return f"{self.name} {self.value:,} over {self.limit:,}"


def measure(session: Session, run: RunRow, constraints: Constraints) -> list[Measured]:
    """The study's limits with what the run came to; memory that the device does not tell is left out.

    `artifact_bytes` is left out, too, of a run that exported nothing: whoever asks decides what that means.
    """
    size = session.scalar(select(ExportRow.artifact_bytes).where(ExportRow.run_id == run.id))
    values = {"artifact_bytes": size, "peak_memory_bytes": run.peak_memory_bytes or None}
    return [
        Measured(name=name, limit=limit, value=value)
        for name, limit in constraints.given.items()
        if (value := values[name]) is not None
    ]


def breaches(measured: list[Measured]) -> str:
    """The broken limits in words, `artifact_bytes 17,120,000 over 16,000,000`; empty where none is."""
    return "; ".join(item.words for item in measured if item.excess > 0)


def lacking(judge: Judge, score: Judged | None, constraints: Constraints, measured: list[Measured]) -> str:
    """Why a run that completed cannot be judged all the same; empty where it can."""
    if score is None:
        return (
            f"score: the run reached its budget and never said its {judge} score, by which this study ranks; "
            f"another `judge` takes another one"
        )
    if constraints.artifact_bytes is not None and all(item.name != "artifact_bytes" for item in measured):
        return "score: the run reached its budget and exported nothing, but the study limits artifact_bytes"
    return ""
