"""Sampler, pruner and rungs on real Optuna studies."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweeper import control, search, space
from sweeper.errors import SweeperError
from sweeper.pruners import HalvingPruner, is_behind, make_pruner
from sweeper.search import Search
from sweeper.service import Service
from sweeper.study import StudySpec
from tests.sweeper import talk
from tests.sweeper.conftest import Opener


def spec(**changes: Any) -> StudySpec:
    return control.parse_spec({**talk.SPEC, **changes})


def opened(service: Service, declared: StudySpec) -> Search:
    with contextlib.suppress(SweeperError):
        service.create_search(declared.name)
    return service.search(declared)


@pytest.fixture
def storage_url(tmp_path: Path, migrated_file: Path) -> str:
    """One kind of database will do here: nothing below Optuna's storage is ours."""
    shutil.copy(migrated_file, tmp_path / "sweeper.db")
    return f"sqlite:///{tmp_path / 'sweeper.db'}"


def no_runs(numbers: object) -> set[int]:
    return set()


def reported(*values: float | None, states: dict[int, TrialState] | None = None) -> optuna.Study:
    """Trials with these values at 30 %."""
    study = optuna.create_study()
    for number, value in enumerate(values):
        state = (states or {}).get(number, TrialState.RUNNING)
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=1.0 if state is TrialState.COMPLETE else None,
                intermediate_values={} if value is None else {30: value},
            )
        )
    return study


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize(
    ("values", "pruned"),
    [
        ([3.0], []),
        ([3.0, 2.0], []),  # fewer than the factor
        ([3.0, 2.0, 1.0], [0, 1]),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3, 4, 5]),
        ([1.0, 1.0, 1.0], []),  # ties are not behind
        ([3.0, 2.0, None], []),
    ],
)
def test_halving_keeps_the_best_third_of_a_rung(values: list[float | None], pruned: list[int]) -> None:
    study = reported(*values)
    pruner = HalvingPruner(3)
    assert [trial.number for trial in study.trials if pruner.prune(study, trial)] == pruned


def test_halving_leaves_out_failed_trials_and_counts_pruned_ones() -> None:
    failed = reported(1.0, 1.1, 3.0, 4.0, states={0: TrialState.FAIL, 1: TrialState.FAIL})
    assert not HalvingPruner(3).prune(failed, failed.trials[2])
    ended = reported(1.0, 3.0, 4.0, states={0: TrialState.COMPLETE, 2: TrialState.PRUNED})
    assert HalvingPruner(3).prune(ended, ended.trials[1])


def test_halving_judges_at_the_last_rung_alone() -> None:
    study = optuna.create_study()
    for early, late in [(1.0, 5.0), (5.0, 1.0), (3.0, 3.0)]:
        study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values={30: early, 60: late}))
    assert [HalvingPruner(3).prune(study, trial) for trial in study.trials] == [True, False, True]


@pytest.mark.parametrize(
    ("rule", "behind"),
    [
        ({"type": "halving", "factor": 2}, [3, 4]),
        ({"type": "median", "startup_trials": 3}, [3, 4]),
        ({"type": "median", "startup_trials": 4}, []),
        ({"type": "percentile", "percentile": 80.0, "startup_trials": 3}, [4]),
        ({"type": "none"}, []),
    ],
)
def test_rules_rank_by_values_that_trials_did_not_report(rule: dict[str, Any], behind: list[int]) -> None:
    complete = dict.fromkeys((0, 1, 2), TrialState.COMPLETE)
    trials = reported(9.0, 8.0, 7.0, 6.0, 5.0, 4.0, states=complete | {5: TrialState.FAIL}).trials
    values = {0: 1.0, 1: 2.0, 2: 3.0, 3: 2.5, 4: 4.0, 5: 0.1}

    told = [number for number in (3, 4) if is_behind(spec(pruner=rule).pruner, number, values, trials)]

    assert told == behind


def test_halving_spends_less_and_keeps_the_winner(service: Service) -> None:
    """Sixty trials whose rung values are their final ones plus a little noise."""
    draw = random.Random(0)
    study = optuna.create_study(direction="minimize")
    pruner, spent = HalvingPruner(3), 0.0
    finals = [draw.uniform(1.0, 2.0) for _ in range(60)]
    for final in finals:
        trial = study.ask()
        for rung, share in ((30, 0.3), (60, 0.3)):
            trial.report(final + draw.gauss(0, 0.01), rung)
            spent += share
            if pruner.prune(study, study.trials[trial.number]):
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            spent += 0.4
            study.tell(trial, final)
    assert study.best_value < sorted(finals)[2]
    assert spent < 0.6 * 60


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"type": "halving", "factor": 4}, "HalvingPruner"),
        ({"type": "median", "startup_trials": 2}, "MedianPruner"),
        ({"type": "percentile", "percentile": 25.0}, "PercentilePruner"),
        ({"type": "none"}, "NopPruner"),
    ],
)
def test_each_pruner_of_a_study_file_prunes_or_not(declared: dict[str, Any], expected: str) -> None:
    pruner = make_pruner(spec(pruner=declared))
    assert type(pruner).__name__ == expected
    study = reported(*range(12), states=dict.fromkeys(range(11), TrialState.COMPLETE))
    assert bool(pruner.prune(study, study.trials[11])) is (expected != "NopPruner")


def drawn(service: Service, declared: StudySpec, count: int) -> list[dict[str, Any]]:
    studies = opened(service, declared)
    suggestions = []
    for number in range(count):
        suggestion = studies.next_trial(lambda numbers: set(numbers))
        assert suggestion is not None
        studies.tell(suggestion.number, TrialState.COMPLETE, 3.0 - number / 10)
        suggestions.append(suggestion.params)
    return suggestions


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_a_restarted_service_draws_what_an_unbroken_one_would(opener: Opener, kind: str) -> None:
    sampler = {"type": kind, "seed": 3}
    unbroken = drawn(opener(), spec(name="unbroken", trials=8, sampler=sampler), 8)
    broken = spec(name="broken", trials=8, sampler=sampler)
    restarted = [drawn(opener(), broken, 1)[0] for _ in range(8)]

    values = [params["optim.matrix_lr"] for params in unbroken]
    assert len(set(values)) == 8, "no draw is repeated"
    assert [params["optim.matrix_lr"] for params in restarted[:2]] == values[:2]
    if kind == "random":
        assert restarted == unbroken


def test_without_a_seed_studies_differ(service: Service) -> None:
    sampler = {"type": "random"}
    assert drawn(service, spec(name="a", sampler=sampler), 3) != drawn(service, spec(name="b", sampler=sampler), 3)


@pytest.mark.parametrize(("kind", "more"), [("tpe", {"startup_trials": 3}), ("random", {})])
def test_every_draw_lies_in_the_space(service: Service, kind: str, more: dict[str, Any]) -> None:
    axes = {
        "optim.matrix_lr": {"log": [0.005, 0.1]},
        "optim.momentum": {"uniform": [0.8, 0.9], "step": 0.05},
        "model.num_layers": {"int": [2, 6], "step": 2},
        "schedule.warmdown": {"uniform": [0.1, 0.9]},
        "model.num_heads": {"choice": [4, 8]},
    }
    declared = spec(space=axes, trials=15, sampler={"type": kind, "seed": 1} | more)
    for params in drawn(service, declared, 15):
        assert space.check(declared.space, params) == params


def test_the_target_counts_all_but_failed_trials(service: Service) -> None:
    studies = opened(service, spec(trials=3))
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
        asked = studies.next_trial(lambda numbers: set(numbers))
        assert asked is not None
        studies.tell(asked.number, state, 1.0 if state is TrialState.COMPLETE else None)
    assert studies.next_trial(lambda numbers: set(numbers)) is not None
    assert studies.next_trial(lambda numbers: set(numbers)) is None
    counts = studies.counts()
    assert (counts.complete, counts.pruned, counts.failed, counts.running) == (1, 1, 1, 1)


def test_an_orphan_goes_first(service: Service) -> None:
    studies = opened(service, spec())
    first, second = studies.next_trial(lambda numbers: set(numbers)), studies.next_trial(lambda numbers: set(numbers))
    assert studies.next_trial(no_runs) == first
    assert studies.next_trial(lambda numbers: {0}) == second


def test_queued_values_are_drawn_as_they_are(service: Service) -> None:
    studies = opened(service, spec())
    values = {"optim.matrix_lr": 0.0123, "model.num_layers": 3}
    number = studies.enqueue(values, retry_of=7, attempt=3)
    suggestion = studies.next_trial(no_runs)
    assert suggestion == search.Suggestion(number, 3, values)
    assert studies.retry_of(7) == number
    assert studies.retry_of(8) is None


def test_a_withdrawn_trial_is_no_lesson(service: Service) -> None:
    studies = opened(service, spec())
    number = studies.enqueue({"optim.matrix_lr": 0.0123, "model.num_layers": 3})
    assert studies.withdraw(number)
    assert not studies.withdraw(number)
    assert studies.trial(number).state is TrialState.FAIL
    after = studies.next_trial(lambda numbers: set(numbers))
    assert after is not None
    assert after.number == number + 1


def test_a_rung_is_reported_once(service: Service) -> None:
    studies = opened(service, spec())
    studies.next_trial(no_runs)
    assert studies.report(0, 0.3, 2.5)
    assert not studies.report(0, 0.3, 9.9)
    assert studies.trial(0).intermediate_values == {30: 2.5}


def test_telling_twice_keeps_the_first(service: Service) -> None:
    studies = opened(service, spec())
    studies.next_trial(no_runs)
    studies.tell(0, TrialState.COMPLETE, 2.5)
    studies.tell(0, TrialState.PRUNED)
    assert (studies.trial(0).state, studies.trial(0).value) == (TrialState.COMPLETE, 2.5)


def test_a_foreign_study_is_not_taken_over(service: Service) -> None:
    studies = opened(service, spec())
    studies.next_trial(no_runs)
    with pytest.raises(SweeperError, match="sweeper did not make"):
        service.create_search("tiny")


def test_rungs_are_filed_by_percent() -> None:
    steps = [search.rung_step(rung) for rung in (0.01, 0.1, 0.29, 0.3, 0.6, 0.99)]
    assert steps == [1, 10, 29, 30, 60, 99]
    assert all(a < b for a, b in itertools.pairwise(steps))
