"""Logs, tables and Optuna studies as imported studies: what is stored, what is left out and why, and once only."""

from __future__ import annotations

import json
from collections.abc import Callable

import optuna
import pytest
from sqlalchemy import text

from sweeper import control, reaper
from sweeper.errors import SweeperError
from sweeper.export import export
from sweeper.importing import importer
from sweeper.importing.importer import Order
from sweeper.importing.mapping import load_mapping
from sweeper.importing.store import BATCH_RUNS
from sweeper.results import Results
from sweeper.service import Conflict, Service, find_study, spec_of
from tests.sweeper.foreign_runs import (
    contents,
    log,
    optuna_trials,
    reasons,
    some_logs,
    trials,
    write_logs,
)
from tests.sweeper.talk import SPEC


def test_logs_become_a_stopped_study_with_curves_scores_and_artifacts(bring_in, service, tmp_path):
    report = bring_in(write_logs(tmp_path / "logs", some_logs()))

    assert report.stored == {"complete": 14} and not report.skipped
    with service.read() as session:
        row = find_study(session, "other")
    spec = spec_of(row)
    assert row.state == "stopped" and spec.judge == "quantised" and spec.trials == 14
    assert spec.budget.seconds == 600 and spec.base["optim"]["embed_lr"] == 0.05
    assert json.loads(report.axes["data.batch_tokens"]) == {"choice": [131_072, 524_288]}
    assert json.loads(report.axes["optim.matrix_lr"]) == {"log": [0.01, 0.01 * 1.2**13]}
    first = trials(service)[0]
    assert first.params == {"optim.matrix_lr": 0.01, "data.batch_tokens": 131_072}
    assert first.score == pytest.approx(1.257) and first.val_bpb == 1.25 and first.step == 1000
    assert first.parameters == 17_059_912 and first.seconds == 600.05 and first.tokens == 131_072_000
    assert len(contents(service)["sweeper_points"]) == 3 * 14
    told = optuna_trials(service)
    assert [trial.value for trial in told] == [run.score for run in trials(service)]
    assert [trial.params for trial in told] == [run.params for run in trials(service)]


def test_an_imported_study_is_read_ranked_and_exported_like_any_other(bring_in, service, tmp_path):
    bring_in(write_logs(tmp_path / "logs", some_logs()))

    results = Results(service.engine)
    summary = results.study("other")
    assert summary.finished and summary.state == "stopped" and summary.counts.complete == 14
    assert summary.best is not None and summary.best.number == 0
    shares = results.importances("other").shares
    assert max(shares, key=shares.__getitem__) == "optim.matrix_lr"  # the score was made of it
    assert len(results.curves("other").values) == 2 * 14
    detail = results.run("other", "trial", 3)
    assert {score.name for score in detail.scores if score.judges} == {"quantised"}
    assert detail.artifact is not None and detail.artifact.artifact_bytes == 15_850_000
    paths = export(service.engine, "other", "csv", tmp_path / "out")
    assert len(paths[0].read_text().splitlines()) == 15


def test_importing_again_changes_nothing_and_new_logs_are_added(bring_in, service, tmp_path):
    folder = write_logs(tmp_path / "logs", some_logs())
    bring_in(folder)
    before = contents(service)

    again = bring_in(folder)
    assert (again.there, again.stored, again.skipped) == (14, {}, [])
    assert contents(service) == before and len(optuna_trials(service)) == 14

    write_logs(folder, [log(0.5, 1.4), log(0.04, 1.4).replace("num_heads:8", "num_heads:16")], start=14)
    more = bring_in(folder)
    assert (more.there, more.stored) == (14, {"complete": 1})
    assert json.loads(more.axes["optim.matrix_lr"]) == {"log": [0.01, 0.5]}
    assert reasons(more) == {"another base than the study's": 1}
    assert all(row in contents(service)["sweeper_runs"] for row in before["sweeper_runs"])
    assert [trial.number for trial in optuna_trials(service)] == list(range(15))


def test_a_moved_folder_is_the_same_runs(bring_in, tmp_path):
    bring_in(write_logs(tmp_path / "logs", some_logs()))
    (tmp_path / "logs").rename(tmp_path / "moved")
    assert bring_in(tmp_path / "moved").there == 14


def fill_up(service: Service, most: int) -> Callable[[], None]:
    """Let the database refuse outcomes of runs beyond `most`; returns what makes room again."""
    on_sqlite = service.engine.dialect.name == "sqlite"
    full = (
        "CREATE TRIGGER full_up BEFORE INSERT ON sweeper_outcomes WHEN NEW.run_id > {0} "
        "BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    limit = "ALTER TABLE sweeper_outcomes ADD CONSTRAINT full_up CHECK (run_id <= {0})"
    room = "DROP TRIGGER full_up" if on_sqlite else "ALTER TABLE sweeper_outcomes DROP CONSTRAINT full_up"
    with service.write() as session:
        session.execute(text((full if on_sqlite else limit).format(most)))

    def make_room() -> None:
        with service.write() as session:
            session.execute(text(room))

    return make_room


def test_an_import_that_dies_in_the_middle_is_completed_by_the_next(bring_in, service, tmp_path):
    count, first = 60, BATCH_RUNS
    folder = write_logs(tmp_path / "logs", [log(0.01 + 0.001 * n, 1.2 + 0.001 * n) for n in range(count)])
    make_room = fill_up(service, first + 3)
    with pytest.raises(SweeperError, match=f"{first} of {count} new runs, which stay"):
        bring_in(folder)
    assert len(trials(service)) == first and len(optuna_trials(service)) == count  # Optuna was told before
    assert not Results(service.engine).study("other").finished
    kept = contents(service)["sweeper_runs"]
    make_room()

    write_logs(folder, [log(0.0105)], start=100)
    report = bring_in(folder)
    assert (report.there, report.stored) == (first, {"complete": count - first + 1})
    runs, told = trials(service), optuna_trials(service)
    assert [run.number for run in runs] == list(range(count + 1)) == [trial.number for trial in told]
    assert [run.versions["imported"] for run in runs] == [trial.user_attrs["imported"] for trial in told]
    assert [run.score for run in runs] == [trial.value for trial in told]
    assert contents(service)["sweeper_runs"][:first] == kept
    assert Results(service.engine).study("other").finished


def test_logs_that_make_no_run_are_skipped_each_with_its_reason(bring_in, service, tmp_path):
    texts = [*some_logs(4), some_logs(1)[0], log(upto=0.5), "pip install torch\n", "", log("fast"), log(seed="x")]
    report = bring_in(write_logs(tmp_path / "logs", [str(text) for text in texts]))
    assert report.stored == {"complete": 4} and report.read == 10
    assert reasons(report) == {
        "a value that does not parse": 2,
        "no training log": 2,
        "a copy of another one": 1,
        "no end": 1,
    }
    assert "step 500 of 20,000" in report.reasons["no end"][0].detail
    assert json.loads(json.dumps(report.plain(), allow_nan=False))["skipped"]["no end"]["count"] == 1


def test_a_run_that_diverged_is_kept_as_diverged_and_pruned_for_optuna(bring_in, service, tmp_path):
    report = bring_in(write_logs(tmp_path / "logs", [*some_logs(3), log(0.9, loss="nan")]))
    assert report.stored == {"complete": 3, "diverged": 1}
    last = trials(service)[-1]
    assert (last.state, last.score, last.reason) == ("diverged", None, "train_loss is not finite at step 500")
    assert optuna_trials(service)[-1].state is optuna.trial.TrialState.PRUNED


def test_many_logs_are_read_by_several_processes_in_their_order(bring_in, service, tmp_path):
    bring_in(write_logs(tmp_path / "logs", [log(0.01 + 0.001 * n, 1.2 + 0.001 * n) for n in range(70)]))
    assert sorted(run.params["optim.matrix_lr"] for run in trials(service)) == pytest.approx(
        [0.01 + 0.001 * n for n in range(70)]
    )


def test_a_dry_run_reports_and_stores_nothing(bring_in, service, tmp_path):
    report = bring_in(write_logs(tmp_path / "logs", some_logs()), dry_run=True)
    assert report.stored == {"complete": 14} and "optim.matrix_lr" in report.axes
    assert not trials(service) and Results(service.engine).studies() == []


def test_studies_that_sweeper_ran_are_not_written_to(bring_in, service, tmp_path):
    control.create_study(service, {**SPEC, "name": "other"})
    with pytest.raises(Conflict, match="another name"):
        bring_in(write_logs(tmp_path / "logs", some_logs(2)))


def test_a_study_that_appeared_while_runs_were_read_is_not_overwritten(bring_in, service, tmp_path):
    folder = write_logs(tmp_path / "logs", some_logs())
    order = Order(sources=[str(folder)], study="other", mapping=load_mapping([]))

    def someone_else(verb: str, done: int, total: int) -> None:
        if (verb, done) == ("reading", total):
            control.create_study(service, {**SPEC, "name": "other"})

    with pytest.raises(Conflict, match="import again"):
        importer.run(order, service, someone_else)
    with service.read() as session:
        assert find_study(session, "other").spec["description"] == "" and not trials(service)


def test_an_imported_study_is_left_alone_by_the_service_and_refused_while_it_runs(bring_in, service, tmp_path):
    folder = write_logs(tmp_path / "logs", some_logs())
    bring_in(folder)
    before = contents(service)
    reaper.recover(service)
    assert contents(service) == before
    control.set_state(service, "other", "resume")
    with pytest.raises(Conflict, match="sweeper stop other"):
        bring_in(folder)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("lr=score*fast", "a factor is a number"),
        ("lr=score/0", "must be positive"),
        ("lr=optim.matrx_lr", "did you mean 'optim.matrix_lr'"),
        ("lr", "COLUMN=PATH"),
        ("gone.toml", "cannot read"),
    ],
)
def test_a_wrong_mapping_is_refused_with_what_was_expected(given, said):
    with pytest.raises(SweeperError, match=said):
        load_mapping([given])


@pytest.mark.parametrize(
    ("given", "said"),
    [("lr", "PATH=VALUE"), ("score=1", "same for all"), ("model.num_layers=many", "number"), ("x=1", "no config path")],
)
def test_a_wrong_constant_is_refused_with_what_was_expected(given, said):
    with pytest.raises(SweeperError, match=said):
        load_mapping([], [given])
