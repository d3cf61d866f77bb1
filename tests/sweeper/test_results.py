"""The read model against real databases: what the dashboard, the CLI and exports are told."""

from __future__ import annotations

import dataclasses

import numpy as np
import optuna
import pytest
from sqlalchemy import event

from sweeper import summary
from sweeper.curves import MOST_POINTS, merge_attempts, thin
from sweeper.results import Results, UnknownError
from sweeper.run_records import RunPoints
from sweeper.storage import migrate, open_engine, optuna_tables
from sweeper.tables import Base
from tests.dashboard.synthetic import SPACE, Writer

NAME = "lr-wd-batch"


@pytest.fixture
def engine(storage_url):
    engine = open_engine(storage_url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def writer(engine):
    return Writer(engine)


@pytest.fixture
def results(engine):
    return Results(engine)


def test_a_new_study_is_all_to_come(writer, results):
    found = results.study(NAME)
    assert found.target == 16
    assert (found.counts.waiting, found.counts.done, found.counts.running) == (16, 0, 0)
    assert found.best is None
    assert found.eta_seconds is None
    assert found.gpu_seconds == 0
    assert not found.finished
    assert found.budget == {"seconds": 20.0}
    assert found.rungs == (0.3, 0.6)


def test_a_summary_counts_every_state_and_names_the_best(writer, results):
    writer.typical()
    found = results.study(NAME)
    counts = found.counts
    assert (counts.complete, counts.pruned, counts.running, counts.failed, counts.waiting) == (6, 6, 2, 1, 2)
    complete = [t for t in results.trials(NAME) if t.state == "complete"]
    best = min(complete, key=lambda t: t.final_val_bpb)
    assert (found.best.number, found.best.val_bpb) == (best.number, best.final_val_bpb)
    assert [run.number for run in found.running] == [13, 14]
    assert found.running[0].tokens_per_second == pytest.approx(200_000)
    assert found.gpu_seconds > 22 * 6
    assert found.eta_seconds > 0


def test_a_study_is_finished_when_the_target_is_told_and_nothing_runs(engine, results):
    writer = Writer(engine, "done", trials=2)
    writer.trial(0)
    last = writer.trial(1, "running")
    assert not results.study("done").finished
    writer.advance(last, state="pruned", ended_at=writer.now)
    assert results.study("done").finished


def test_a_study_with_queued_values_is_not_finished(engine, results):
    tables = optuna_tables(engine)
    of_another = optuna.create_study(storage=tables, study_name="another")
    of_another.enqueue_trial({"x": 2.0})
    queue = optuna.create_study(storage=tables, study_name="done")
    Writer(engine, "done", trials=1).trial(0)
    assert results.study("done").finished
    queue.enqueue_trial({"x": 1.0})
    found = results.study("done")
    assert (found.finished, found.counts.waiting) == (False, 1)
    queue.ask()
    assert results.study("done").counts.waiting == 0
    tables.remove_session()
    tables.engine.dispose()


def test_a_database_without_optunas_tables_is_read(empty_url):
    engine = open_engine(empty_url)
    Base.metadata.create_all(engine)
    Writer(engine, "done", trials=1).trial(0)
    assert Results(engine).study("done").finished
    engine.dispose()


def test_nothing_is_promised_of_a_paused_study(writer, results, engine):
    writer.typical()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sweeper_studies SET state = 'paused'")
    assert results.study(NAME).eta_seconds is None


def test_trials_tell_final_scores_from_streamed_values(writer, results):
    writer.trial(0, "complete")
    writer.trial(1, "pruned")
    complete, pruned = results.trials(NAME)
    assert complete.final_val_bpb == pytest.approx(complete.streamed_val_bpb - 0.001)
    assert pruned.final_val_bpb is None
    assert pruned.streamed_val_bpb is not None
    assert pruned.reason == "behind at 30 %"


def test_trials_after_a_number(writer, results):
    for number in range(4):
        writer.trial(number, points=3)
    assert [t.number for t in results.trials(NAME, after=1)] == [2, 3]


def test_only_the_newest_attempt_of_a_number_counts(writer, results):
    params = writer.params()
    writer.trial(0, "failed", params=params)
    writer.trial(0, "complete", params=params, attempt=2)
    (row,) = results.trials(NAME)
    assert (row.attempt, row.state) == (2, "complete")
    assert results.study(NAME).counts.failed == 0
    assert results.curves(NAME).states == ("complete",)


def test_curves_are_columns_with_rungs_on_the_share_that_was_asked_for(writer, results):
    writer.trial(0)
    writer.trial(1, "pruned")
    writer.trial(2, "running", progress=0.0, points=1)
    curves = results.curves(NAME)
    assert curves.numbers == (0, 1, 2)
    assert curves.states == ("complete", "pruned", "running")
    assert curves.progress[curves.offsets[1] : curves.offsets[2]] == pytest.approx([0.1, 0.2, 0.3])
    assert curves.offsets[2] == curves.offsets[3], "a run without points has an empty slice"
    assert np.isfinite(curves.values).all()
    assert results.curves(NAME, "train_loss").offsets[1] == 29


def test_long_curves_are_thinned_to_the_limit_with_both_ends(writer, results):
    writer.trial(0, points=401)
    losses = results.curves(NAME, "train_loss")
    assert len(losses.values) == MOST_POINTS
    assert losses.progress[0] == pytest.approx(1 / 400)
    assert losses.progress[-1] == 1.0


def test_curves_of_ended_runs_are_read_once_and_running_ones_anew(writer, results, engine):
    writer.trial(0)
    run = writer.trial(1, "running")
    first = results.curves(NAME)
    read: list[list[int]] = []

    def note(connection, cursor, statement, parameters, context, executemany):
        if "FROM sweeper_points" in statement:
            read.append(sorted(parameters.values() if isinstance(parameters, dict) else parameters))

    event.listen(engine, "before_cursor_execute", note)
    writer.advance(run, state="pruned")
    second, third = results.curves(NAME), results.curves(NAME)
    assert read == [[run]], "the first run was known; the second was read once more, after its end"
    assert second.states == third.states == ("complete", "pruned")
    assert np.array_equal(first.values, third.values)


def test_a_trial_in_detail(writer, results):
    writer.trial(0, "failed", params=(params := writer.params()))
    writer.trial(1, "complete", params=params, attempt=2)
    detail = results.run(NAME, "trial", 1)
    assert detail.row.params == params
    assert detail.config["optim"]["matrix_lr"] == 0.04
    assert np.isfinite(detail.points.train_loss).sum() == 29
    assert [message.kind for message in detail.messages] == ["start", "log", "end"]
    assert [(a.number, a.state) for a in detail.attempts] == [(0, "failed"), (1, "complete")]
    assert detail.versions["torch"] == "2.9.0"
    assert detail.parameters == 1_234_567


def test_a_promotion_that_was_killed_has_one_unbroken_curve(writer, results):
    params = writer.params()
    writer.promotion(0, trial=3)
    writer.run("promotion", 0, "failed", params, 0.6, 60, tokens=80_000_000)
    writer.run(
        "promotion", 0, "running", params, 0.8, 80, tokens=80_000_000, attempt=2, resumed_step=250, first_step=250
    )
    points = results.promotion_curves(NAME)[0]
    assert points.step[0] < 20
    assert points.step[-1] == 400
    assert (np.diff(points.step) >= 0).all(), "no step twice and none lost"
    (record,) = results.promotions(NAME)
    assert (record.trial, record.attempt, record.planned_tokens) == (3, 2, 80_000_000)
    assert record.progress == 0.8


def test_a_promotion_that_waits_has_no_run(writer, results):
    writer.promotion(0, trial=3, state="waiting")
    (record,) = results.promotions(NAME)
    assert (record.attempt, record.tokens, record.val_bpb) == (0, 0, None)
    with pytest.raises(UnknownError, match="no started promotion number 0"):
        results.run(NAME, "promotion", 0)


def test_an_attempt_that_has_not_started_drops_nothing(writer, results):
    params = writer.params()
    writer.promotion(0, trial=3)
    writer.run("promotion", 0, "failed", params, 0.6, 60, tokens=80_000_000)
    writer.run("promotion", 0, "running", params, 0.0, 1, tokens=80_000_000, attempt=2, started_at=None)
    assert results.promotion_curves(NAME)[0].step[-1] == 300


def test_importances_say_why_not_and_then_which(writer, results):
    writer.trial(0)
    assert "Needs 12 finished trials" in results.importances(NAME).note
    for number in range(1, 40):
        writer.trial(number, "pruned" if number % 3 == 0 else "complete", points=3)
    found = results.importances(NAME)
    assert set(found.shares) == set(SPACE)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert max(found.shares, key=found.shares.__getitem__) == "optim.matrix_lr", "the synthetic scores depend on it"
    assert results.importances(NAME) is found, "nothing finished since: not computed again"


def test_the_version_changes_with_every_kind_of_change(writer, results, engine):
    seen = {results.version(NAME)}
    run = writer.trial(0, "running")
    seen.add(results.version(NAME))
    for change in ({"last_seq": 99}, {"step": 7}, {"stop_requested": "user"}, {"state": "stopped"}):
        writer.advance(run, **change)
        seen.add(results.version(NAME))
    writer.promotion(0, 0, "waiting")
    seen.add(results.version(NAME))
    writer.event("paused")
    seen.add(results.version(NAME))
    assert len(seen) == 8
    assert results.version(NAME) in seen


def test_changed_trials_are_the_new_and_the_named(writer, results):
    old = writer.trial(0)
    running = writer.trial(1, "running")
    new = writer.trial(2, "running")
    assert new > running > old
    found = results.changed_trials(NAME, after_run=running, runs=[running])
    assert [t.number for t in found] == [1, 2]


def test_unknown_things_are_named_with_what_there_is(writer, results):
    with pytest.raises(UnknownError, match="no study other; known: lr-wd-batch"):
        results.study("other")
    with pytest.raises(UnknownError, match="no trial number 7"):
        results.run(NAME, "trial", 7)


def test_activity_is_newest_first_and_limited(writer, results):
    for number in range(5):
        writer.event("finished", trial=number)
    assert [line.detail["trial"] for line in results.activity(NAME, limit=3)] == [4, 3, 2]


def test_workers(writer, results):
    writer.worker("w1")
    (worker,) = results.workers()
    assert (worker.id, worker.state) == ("w1", "busy")


def test_axes_of_a_stored_study():
    log, uniform, choice, whole = summary.axes({"space": SPACE})
    assert (log.scale, log.low, log.high) == ("log", 0.005, 0.1)
    assert uniform.scale == "linear"
    assert choice.choices == (4096, 8192, 16384)
    assert (whole.integer, whole.step) == (True, 1)


def test_merging_keeps_what_the_last_attempt_at_each_step_did():
    def points(*steps: int) -> RunPoints:
        column = np.array(steps, dtype=float)
        return RunPoints(**{field.name: column for field in dataclasses.fields(RunPoints)})

    merged = merge_attempts([(points(1, 2, 3, 4, 5), 0), (points(4, 5, 6), 3), (points(3, 4), 2)])
    assert merged.step.tolist() == [1, 2, 3, 4], "the third attempt went back behind the second"
    assert merge_attempts([]).step.tolist() == []


def test_thinning_keeps_the_ends():
    kept = thin(np.arange(1000.0), 10)
    assert len(kept) == 10
    assert (kept[0], kept[-1]) == (0, 999)
