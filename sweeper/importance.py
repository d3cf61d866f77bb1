"""Which searched values matter: PED-ANOVA (arXiv:2304.10255) on our records, as Optuna implements it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import create_trial

from sweeper.records import Importances, TrialRow

FEWEST_COMPLETE = 3
FEWEST_FINISHED = 12
"""Below these the best quarter has fewer than three trials and the shares are noise."""


def importances(trials: Sequence[TrialRow], distributions: Mapping[str, BaseDistribution]) -> Importances:
    """Shares that sum to 1, largest first.

    The method asks what sets the best trials apart from all of them, so only ranks enter. Trials that were
    pruned or diverged, or break a limit, count as ranked behind every other (their streamed values are not used):
    leaving them out would throw away what the search learnt about bad regions.
    """
    complete = [t for t in trials if t.score is not None and not t.infeasible]
    behind = [t for t in trials if t.state in ("pruned", "diverged") or t.infeasible]
    finished = len(complete) + len(behind)
    if finished < FEWEST_FINISHED or len(complete) < FEWEST_COMPLETE:
        note = (
            f"Needs {FEWEST_FINISHED} finished trials, {FEWEST_COMPLETE} of them complete; "
            f"there are {finished} and {len(complete)}."
        )
        return Importances(shares={}, trials=finished, note=note)
    quantile = max(0.1, min(0.25, len(complete) / finished))
    shares = _evaluate(complete, behind, distributions, quantile)
    total = sum(shares.values())
    if total <= 0:
        return Importances(shares={}, trials=finished, note="No parameter sets the best trials apart yet.")
    note = f"What sets the best {quantile:.0%} of {finished} finished trials apart (PED-ANOVA)"
    if finished < 50:
        note += "; a rough guess below 50 trials"
    return Importances(shares={path: share / total for path, share in shares.items()}, trials=finished, note=f"{note}.")


def _evaluate(
    complete: Sequence[TrialRow],
    behind: Sequence[TrialRow],
    distributions: Mapping[str, BaseDistribution],
    quantile: float,
) -> dict[str, float]:
    storage = InMemoryStorage()
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    study = optuna.load_study(study_name=storage.get_study_name_from_id(study_id), storage=storage)
    last = max(t.score for t in complete if t.score is not None) + 1.0
    values = [*((t, t.score) for t in complete), *((t, last) for t in behind)]
    for trial, value in values:
        params: dict[str, Any] = {path: trial.params[path] for path in distributions if path in trial.params}
        known = {path: distributions[path] for path in params}
        study.add_trial(create_trial(params=params, distributions=known, value=value))
    return PedAnovaImportanceEvaluator(target_quantile=quantile).evaluate(study)
