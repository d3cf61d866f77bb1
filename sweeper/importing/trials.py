"""What Optuna is told of an imported run, as far as it would have been told of one that was made here."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.trial import TrialState

from sweeper.importing.runs import Run
from sweeper.search import rung_step
from sweeper.study import StudySpec
from sweeper.verdicts import Measured


def state(run: Run) -> TrialState:
    """One that diverged or was stopped counts as pruned."""
    return {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL}.get(run.state, TrialState.PRUNED)


def value(spec: StudySpec, run: Run, reported: Mapping[int, float]) -> float | None:
    """The score of a complete run; of one that counts as pruned the last value that it reported, as Optuna has it."""
    if run.state == "complete":
        return run.judged[spec.judge]
    return reported[max(reported)] if reported and state(run) is TrialState.PRUNED else None


def rungs(spec: StudySpec, run: Run) -> dict[int, float]:
    """Values on the way that its trial would have reported, by percent of the budget."""
    if spec.pruned_on == "cooled":
        length = getattr(spec.budget, spec.budget.unit)
        passed = [(row["budget"] / length, row["val_bpb"]) for row in run.outcomes if row["budget"] is not None]
    else:
        passed = [(row["fraction"], row["val_bpb"]) for row in run.points if row["fraction"] is not None]
    return {
        rung_step(rung): value
        for rung in spec.reported_rungs
        for share, value in passed
        if abs(rung - share) < 1e-6 and value is not None
    }


def excess(spec: StudySpec, run: Run) -> dict[str, float] | None:
    """By how much a complete run breaks each limit of the study; None where there is nothing to hold against one."""
    size = run.exports[-1]["artifact_bytes"] if run.exports else None
    values = {"artifact_bytes": size, "peak_memory_bytes": run.peak_memory_bytes or None}
    found = {
        name: Measured(name=name, limit=limit, value=value).excess
        for name, limit in spec.constraints.given.items()
        if run.state == "complete" and (value := values[name]) is not None
    }
    return found or None
