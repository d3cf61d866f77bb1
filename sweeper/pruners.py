"""When a trial is behind: the study file's pruners in Optuna's words, and one of our own."""

from __future__ import annotations

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner
from optuna.trial import FrozenTrial, TrialState

from sweeper import study_file
from sweeper.study import StudySpec


class HalvingPruner(BasePruner):
    """Asynchronous successive halving at the rungs that a trial reports.

    A trial goes on when its value at the rung is in the best 1 / factor of all trials that have reached it;
    FAIL is left out, and so are trials known to break a limit: a model that is too large is ahead at every rung.
    Nothing is pruned before `factor` trials have reached the rung.  Optuna's own keeps
    the rungs in system attributes, counts failed trials, and always lets the first arrival pass.
    """

    def __init__(self, factor: int) -> None:
        self._factor = factor

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial is behind at the last rung it reported."""
        step = trial.last_step
        if step is None:
            return False
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        peers = [peer for peer in study.get_trials(deepcopy=False, states=states) if is_feasible(peer)]
        values = {peer.number: peer.intermediate_values[step] for peer in peers if step in peer.intermediate_values}
        values[trial.number] = trial.intermediate_values[step]
        if len(values) < self._factor:
            return False
        keep = len(values) // self._factor
        return values[trial.number] > sorted(values.values())[keep - 1]


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether the trial breaks no limit, as far as is known: limits are measured when it completes."""
    return all(amount <= 0 for amount in trial.constraints.values())


def make_pruner(spec: StudySpec) -> BasePruner:
    """The pruner that the study file names."""
    wanted = spec.pruner
    if isinstance(wanted, study_file.HalvingPruner):
        return HalvingPruner(wanted.factor)
    if isinstance(wanted, study_file.MedianPruner):
        return MedianPruner(n_startup_trials=wanted.startup_trials)
    if isinstance(wanted, study_file.PercentilePruner):
        return PercentilePruner(wanted.percentile, n_startup_trials=wanted.startup_trials)
    return NopPruner()
