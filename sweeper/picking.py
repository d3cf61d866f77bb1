"""Which trial a longer run takes its values from: the named one, or the best that keeps the study's limits."""

from __future__ import annotations

import math

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select

from sweeper.pruners import is_feasible
from sweeper.service import Conflict, Service, Unknown, spec_of
from sweeper.tables import OutcomeRow, RunRow, StudyRow


def scored(service: Service, study: StudyRow, number: int | None) -> tuple[RunRow, OutcomeRow]:
    """The run of a complete trial, None for the best, and its outcome.

    Raises:
        Unknown: no such trial.
        Conflict: it has no score, or no trial has one yet.
    """
    with service.turn(study.id):
        number = _choose(service.search(spec_of(study)).trials(), study.name, number).number
    with service.read() as session:
        found = session.execute(
            select(RunRow, OutcomeRow)
            .join(OutcomeRow, OutcomeRow.run_id == RunRow.id)
            .where(RunRow.study_id == study.id, RunRow.kind == "trial", RunRow.number == number)
            .where(RunRow.state == "complete", OutcomeRow.budget.is_(None))
            .order_by(OutcomeRow.tokens.desc())
        ).first()
    if found is None:
        raise Conflict(f"trial {number} of study {study.name} was not run here, so its speed is not known")
    return found[0], found[1]


def _choose(trials: list[FrozenTrial], name: str, number: int | None) -> FrozenTrial:
    """The named trial, or the best complete one that keeps the study's limits."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if number is None:
        if not complete:
            raise Conflict(f"study {name} has no complete trial yet: there is nothing to promote")
        feasible = [trial for trial in complete if is_feasible(trial)]
        if not feasible:
            raise Conflict(
                f"all {len(complete)} complete trials of study {name} break a limit of the study: none is promoted "
                f"unless you name it with --trial"
            )
        return min(feasible, key=lambda trial: trial.value if trial.value is not None else math.inf)
    for trial in trials:
        if trial.number == number:
            if trial not in complete:
                raise Conflict(
                    f"trial {number} of study {name} is {trial.state.name.lower()}; only complete trials have a "
                    f"score to promote: {', '.join(str(trial.number) for trial in complete[:20]) or 'none yet'}"
                )
            return trial
    raise Unknown(f"study {name} has no trial {number}")
