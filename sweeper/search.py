"""A study in Optuna's words: sampler, pruner, rungs, and the few things that we ask of a trial.

Everything here works on trial numbers and storage, never on a live Trial object, so that a service that was
killed and started again goes on where it was.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from sweeper import pruners, space, study_search
from sweeper.errors import SweeperError
from sweeper.study import StudySpec

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)
"""States that count towards a study's `trials`; FAIL does not, as failures are repeated."""


WithRun = Callable[[Collection[int]], set[int]]
"""Which of these trial numbers have a run of ours."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A trial to run: RUNNING in Optuna, all values drawn, no run of ours yet."""

    number: int
    attempt: int
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many trials of a study are in which state."""

    complete: int
    pruned: int
    running: int
    waiting: int
    failed: int

    @property
    def told(self) -> int:
        return self.complete + self.pruned


def make_sampler(spec: StudySpec, number: int) -> BaseSampler:
    """The sampler that draws trial `number`.

    With a seed, each trial has a random stream of its own: a service that was restarted, or a second one on
    the same database, draws what an unbroken one would have drawn.
    """
    wanted = spec.sampler
    seed = None if wanted.seed is None else zlib.crc32(f"{wanted.seed} {number}".encode())
    if isinstance(wanted, study_search.RandomSampler):
        return RandomSampler(seed=seed)
    return TPESampler(n_startup_trials=wanted.startup_trials, seed=seed)


def rung_step(fraction: float) -> int:
    """The `step` under which Optuna files a value at this share of the budget."""
    return round(100 * fraction)


class Search:
    """One study in Optuna. Callers hold the study's turn, as asking is several writes."""

    def __init__(self, storage: BaseStorage, spec: StudySpec) -> None:
        self.spec = spec
        self._storage = storage
        self._study = optuna.load_study(
            study_name=spec.name, storage=storage, sampler=make_sampler(spec, 0), pruner=pruners.make_pruner(spec)
        )
        self._id = storage.get_study_id_from_name(spec.name)

    @staticmethod
    def create(storage: BaseStorage, name: str) -> None:
        """Make the study in Optuna, or adopt an empty one that an interrupted creation left.

        Raises:
            SweeperError: a study of this name that has trials is there already.
        """
        made = optuna.create_study(
            study_name=name, storage=storage, direction=StudyDirection.MINIMIZE, load_if_exists=True
        )
        if made.direction is not StudyDirection.MINIMIZE or made.get_trials(deepcopy=False):
            raise SweeperError(
                f"the database holds an Optuna study {name!r} that sweeper did not make; give yours another name"
            )

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials by number, to be read only; all of them when no state is given."""
        return self._study.get_trials(deepcopy=False, states=states or None)

    def trial(self, number: int) -> FrozenTrial:
        """One trial, fresh from the database."""
        return self._storage.get_trial(self._trial_id(number))

    def counts(self) -> Counts:
        states = [trial.state for trial in self.trials()]
        return Counts(
            complete=states.count(TrialState.COMPLETE),
            pruned=states.count(TrialState.PRUNED),
            running=states.count(TrialState.RUNNING),
            waiting=states.count(TrialState.WAITING),
            failed=states.count(TrialState.FAIL),
        )

    def orphans(self, with_run: WithRun) -> list[int]:
        """Numbers of RUNNING trials without a run: drawn ahead, or the service died between asking and leasing."""
        return [trial.number for trial in _orphans(self.trials(TrialState.RUNNING), with_run)]

    def next_trial(self, with_run: WithRun) -> Suggestion | None:
        """A queued trial, else one that was drawn before, else a new one; None when the target is reached."""
        trials = self.trials()
        orphans = self._within_target(trials, _orphans(trials, with_run))
        queued = any(trial.state is TrialState.WAITING for trial in trials)
        for orphan in orphans:
            if not queued or _was_queued(orphan):
                return self._complete(orphan.number)
        return self._ask(trials) if queued or self._room(trials) > 0 else None

    def draw_ahead(self, ready: int, with_run: WithRun) -> bool:
        """Draw a trial that nobody has asked for, unless so many are ready or the target leaves no room.

        Queued trials need no sampler: they stay in the queue, and nothing is drawn while there is one.
        """
        trials = self.trials()
        if any(trial.state is TrialState.WAITING for trial in trials) or self._room(trials) <= 0:
            return False
        if len(_orphans(trials, with_run)) >= ready:
            return False
        self._ask(trials)
        return True

    def drop_surplus(self, with_run: WithRun) -> None:
        """Fail drawn trials beyond the target, which was lowered, or which queued trials have reached instead."""
        trials = self.trials()
        self._within_target(trials, _orphans(trials, with_run))

    def _within_target(self, trials: list[FrozenTrial], orphans: list[FrozenTrial]) -> list[FrozenTrial]:
        """The orphans to keep; of the others, which only the sampler wanted, the last are failed."""
        surplus = max(0, -self._room(trials))
        drawn = [orphan for orphan in orphans if not _was_queued(orphan)]
        dropped = {trial.number for trial in drawn[max(0, len(drawn) - surplus) :]}
        for number in dropped:
            self.tell(number, TrialState.FAIL)
        return [orphan for orphan in orphans if orphan.number not in dropped]

    def _room(self, trials: list[FrozenTrial]) -> int:
        return self.spec.trials - sum(trial.state in COUNTED for trial in trials)

    def _ask(self, trials: list[FrozenTrial]) -> Suggestion:
        self._study.sampler = make_sampler(self.spec, len(trials))
        return _suggestion(self._study.ask(fixed_distributions=space.distributions(self.spec.space)))

    def _complete(self, number: int) -> Suggestion:
        """Draw the values that an interrupted ask left out; those that it wrote are kept."""
        drawn = self.trial(number)
        if drawn.params.keys() >= self.spec.space.keys():
            return _suggestion(drawn)
        self._study.sampler = make_sampler(self.spec, number)
        trial = Trial(self._study, self._trial_id(number))
        for path, distribution in space.distributions(self.spec.space).items():
            _suggest(trial, path, distribution)
        return _suggestion(trial)

    def enqueue(self, params: dict[str, Any], **attributes: Any) -> int:
        """Queue a trial of these values; returns its number."""
        self._study.enqueue_trial(params, user_attrs=attributes)
        return max(trial.number for trial in self.trials(TrialState.WAITING))

    def enqueue_points(self) -> int:
        """Queue the first `trials` of the study's points, but for those that are there; returns how many it queued."""
        before = len(self.trials())
        for point in self.spec.points[: self.spec.trials]:
            params = space.check(self.spec.space, point)
            self._study.enqueue_trial(params, user_attrs={"enqueued_by": "points"}, skip_if_exists=True)
        return len(self.trials()) - before

    def retry_of(self, number: int) -> int | None:
        """The number of the trial that repeats this one; None when there is none."""
        for trial in self.trials():
            if trial.user_attrs.get("retry_of") == number:
                return trial.number
        return None

    def report(self, number: int, fraction: float, value: float) -> bool:
        """Store the value at a rung; False when the rung was reported before."""
        step = rung_step(fraction)
        if step in self.trial(number).intermediate_values:
            return False
        self._storage.set_trial_intermediate_value(self._trial_id(number), step, value)
        return True

    def is_behind(self, number: int) -> bool:
        """What the pruner says of the trial at the last rung it reported."""
        return bool(self._study.pruner.prune(self._study, self.trial(number)))  # some answer in NumPy

    def is_behind_by(self, number: int, values: Mapping[int, float]) -> bool:
        """What the pruner's rule says of a trial among these values by trial number, its own one of them."""
        return pruners.is_behind(self.spec.pruner, number, values, self.trials())

    def constrain(self, number: int, excess: Mapping[str, float]) -> None:
        """File by how much a trial breaks each limit, before it is told: above 0 it does; what is filed stays."""
        trial = copy.deepcopy(self.trial(number))
        before = set(trial.system_attrs)
        for name, amount in excess.items():
            if name not in trial.constraints:
                trial.set_constraint(name, amount)  # on our copy: it knows under which key Optuna reads them
        for key in set(trial.system_attrs) - before:
            self._storage.set_trial_system_attr(self._trial_id(number), key, trial.system_attrs[key])

    def tell(self, number: int, state: TrialState, value: float | None = None) -> None:
        """Finish a trial; one that is finished stays as it is."""
        self._study.tell(number, value, state=state, skip_if_finished=True)

    def withdraw(self, number: int) -> bool:
        """Take a queued trial out of the queue; False when it is no longer queued.

        It becomes FAIL, not PRUNED: it has no values drawn, and samplers learn from what is pruned.
        """
        if self.trial(number).state is not TrialState.WAITING:
            return False
        self._storage.set_trial_state_values(self._trial_id(number), TrialState.FAIL)
        return True

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)


def _orphans(trials: list[FrozenTrial], with_run: WithRun) -> list[FrozenTrial]:
    running = [trial for trial in trials if trial.state is TrialState.RUNNING]
    known = with_run([trial.number for trial in running]) if running else set()
    return [trial for trial in running if trial.number not in known]


def _was_queued(trial: FrozenTrial) -> bool:
    return "fixed_params" in trial.system_attrs


def _suggestion(trial: Trial | FrozenTrial) -> Suggestion:
    return Suggestion(trial.number, int(trial.user_attrs.get("attempt", 1)), dict(trial.params))


def _suggest(trial: Trial, path: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(path, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(path, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    else:
        assert isinstance(distribution, FloatDistribution)
        trial.suggest_float(path, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
