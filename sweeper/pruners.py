"""When a trial is behind: the study file's pruners in Optuna's words, and one of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner
from optuna.trial import FrozenTrial, TrialState

from sweeper import study_search
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
        return outside_best(
            trial.intermediate_values[step], values | {trial.number: trial.intermediate_values[step]}, self._factor
        )


def outside_best(value: float, values: Mapping[int, float], factor: int) -> bool:
    """Whether it is not among the best 1 / factor of these, of which it is one."""
    if len(values) < factor:
        return False
    return value > sorted(values.values())[len(values) // factor - 1]


def is_behind(
    rule: study_search.Pruner, number: int, values: Mapping[int, float], trials: Sequence[FrozenTrial]
) -> bool:
    """What a rule says of a trial where all are ranked by other values than those that they reported.

    Args:
        values: by trial number, of those that have one; the trial's own among them.
        trials: all of the study.
    """
    counted = {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING}
    peers = {t.number: t for t in trials if t.state in counted and is_feasible(t) and t.number in values}
    if isinstance(rule, study_search.HalvingPruner):
        return outside_best(values[number], {n: values[n] for n in (*peers, number)}, rule.factor)
    complete = [values[n] for n, t in peers.items() if t.state is TrialState.COMPLETE and n != number]
    if isinstance(rule, study_search.NoPruner) or len(complete) < rule.startup_trials:
        return False
    share = rule.percentile if isinstance(rule, study_search.PercentilePruner) else 50.0
    return values[number] > float(np.percentile(complete, share))


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether the trial breaks no limit, as far as is known: limits are measured when it completes."""
    return all(amount <= 0 for amount in trial.constraints.values())


def make_pruner(spec: StudySpec) -> BasePruner:
    """The pruner that the study file names."""
    wanted = spec.pruner
    if isinstance(wanted, study_search.HalvingPruner):
        return HalvingPruner(wanted.factor)
    if isinstance(wanted, study_search.MedianPruner):
        return MedianPruner(n_startup_trials=wanted.startup_trials)
    if isinstance(wanted, study_search.PercentilePruner):
        return PercentilePruner(wanted.percentile, n_startup_trials=wanted.startup_trials)
    return NopPruner()
