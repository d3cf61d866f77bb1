"""Tables and other Optuna studies, imported: mappings, reasons, curves."""

from __future__ import annotations

import json
import math
import warnings

import optuna
import pytest
from sqlalchemy import func, select

from sweeper.errors import SweeperError
from sweeper.observations_read import FitsStore
from sweeper.results import Results
from sweeper.tables import RunRow
from tests.sweeper.foreign_runs import (
    contents,
    reasons,
    trials,
    write_csv,
)


def test_a_table_is_mapped_and_what_nobody_knows_is_listed(bring_in, service, tmp_path):
    header = ["Name", "State", "config.matrix_lr", "config.wd", "val_bpb", "tokens", "config.gpu_kind", "Tags"]
    rows = [
        [f"run-{n}", "finished", 0.01 + 0.01 * n, 0.1 * n, 1.3 - 0.01 * n, 1_000_000, "H100", "a"] for n in range(5)
    ]
    rows += [
        ["bad-1", "crashed", 0.02, 0.1, 1.3, 10, "H100", ""],
        ["bad-2", "finished", "fast", 0.1, 1.3, 10, "H100", ""],
        ["bad-3", "finished", 0.02, 0.1, "NaN", 10, "H100", ""],
        ["bad-4", "finished", 0.02, 0.1, "", 10, "H100", ""],
        ["bad-5", "finished"],
    ]
    table = write_csv(tmp_path / "wandb.csv", header, *rows)
    report = bring_in(table, mapping=("wd=optim.matrix_weight_decay",), form="wandb")
    assert report.stored == {"complete": 5, "diverged": 1}
    assert sorted(report.unused) == ["Tags", "config.gpu_kind"]
    assert reasons(report) == {
        "a broken row": 1,
        "it did not finish": 1,
        "a value that does not parse": 1,
        "no score": 1,
    }
    assert json.loads(report.axes["optim.matrix_lr"]) == {"log": [0.01, 0.05]}
    assert json.loads(report.axes["optim.matrix_weight_decay"]) == {"uniform": [0.0, 0.4]}
    best = Results(service.engine).study("other").best
    assert best is not None and best.number == 4 and best.val_bpb == pytest.approx(1.26)
    assert bring_in(table, mapping=("wd=optim.matrix_weight_decay",)).there == 6


def test_a_mapped_column_that_is_not_there_is_a_reason_and_no_traceback(bring_in, service, tmp_path):
    table = write_csv(tmp_path / "runs.csv", ["matrix_lr", "val_bpb"], [0.1, 1.2], [0.2, 1.3])
    report = bring_in(table, mapping=("decay=optim.matrix_weight_decay",))
    assert reasons(report) == {"a missing column": 2} and not report.stored
    assert "decay" in report.skipped[0].detail
    with service.read() as session:
        assert session.scalar(select(func.count()).select_from(RunRow)) == 0


def test_json_lines_are_flattened_and_a_broken_line_is_one_run_lost(bring_in, service, tmp_path):
    file = tmp_path / "runs.jsonl"
    lines = [
        json.dumps({"config": {"MATRIX_LR": 0.01 * n, "WARMDOWN": 100 * n}, "final": {"val_bpb": 1 + n}})
        for n in (1, 2)
    ]
    file.write_text("\n".join([*lines, "{broken", "[1]"]))
    mapping = tmp_path / "map.toml"
    mapping.write_text('judge = "final"\n[columns]\nWARMDOWN = "trainer.WARMDOWN_ITERS"\n"final.val_bpb" = "score"\n')
    report = bring_in(file, mapping=(str(mapping),))
    assert report.stored == {"complete": 2} and reasons(report) == {"a broken row": 2}
    assert json.loads(report.axes["trainer.WARMDOWN_ITERS"]) == {"choice": [100, 200]}


def test_another_optuna_study_comes_with_its_curves(bring_in, service, tmp_path):
    url = f"sqlite:///{tmp_path / 'theirs.db'}"
    theirs = optuna.create_study(study_name="theirs", storage=url)
    for n in range(6):
        trial = theirs.ask()
        rate, depth = trial.suggest_float("MATRIX_LR", 0.001, 1, log=True), trial.suggest_int("n_layer", 2, 4)
        for step in (10, 20):
            trial.report(2.0 + rate + step / 100, step)
        if n == 4:
            theirs.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif n == 5:
            theirs.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            theirs.tell(trial, 1.0 + rate + depth)
    report = bring_in(url)
    assert report.stored == {"complete": 4, "pruned": 1} and reasons(report) == {"it did not finish": 1}
    assert {"optim.matrix_lr", "trainer.n_layer"} >= set(report.axes)
    assert [run.score for run in trials(service)][:4] == [trial.value for trial in theirs.trials][:4]
    assert len(contents(service)["sweeper_points"]) == 10
    assert bring_in(url, optuna_study="theirs").there == 5
    with pytest.raises(SweeperError, match="has no study 'mine'; it has: theirs"):
        bring_in(url, optuna_study="mine")
    theirs._storage.remove_session()  # type: ignore[attr-defined]


HOPELESS = ["nan", "NaN", "inf", "-inf", "Infinity"]


@pytest.mark.parametrize("loss", HOPELESS)
def test_a_loss_that_is_no_finite_number_is_a_run_that_diverged(bring_in, service, tmp_path, loss):
    header = ["Name", "State", "matrix_lr", "batch_tokens", "steps", "budget.steps", "val_loss", "val_bpb"]
    rows = [
        ["fine", "finished", 0.01, 65536, 1000, 1000, 3.1, 1.2],
        ["no-bpb", "finished", 0.02, 65536, 1000, 1000, loss, ""],
        ["to-the-end", "finished", 0.04, 65536, 1000, 1000, loss, loss],
        ["fell-over", "crashed", 0.08, 65536, 250, 1000, "", loss],
        ["unknown", "crashed", 0.08, 65536, 250, 1000, "", ""],
        ["goes-on", "running", 0.16, 65536, 250, 1000, loss, loss],
    ]
    report = bring_in(write_csv(tmp_path / "runs.csv", header, *rows), constants=("parameters=1e6",))
    assert report.stored == {"complete": 1, "diverged": 3} and reasons(report) == {"it did not finish": 2}
    assert any(note.startswith("3 diverged") for note in report.notes)
    found = trials(service)
    assert [run.state for run in found] == ["complete", "diverged", "diverged", "diverged"]
    assert [run.progress for run in found] == [1.0, 1.0, 1.0, 0.25]
    assert all(run.score is None and run.val_bpb is None for run in found[1:])
    assert loss.lower() in found[1].reason and "val_loss" in found[1].reason
    fits = FitsStore(service.engine, Results(service.engine)).fits("other")  # which draws them as a rug
    assert fits.trials.runs.diverged.tolist() == [False, True, True, True]
    assert sorted(set(fits.trials.runs.tokens.tolist())) == [65_536_000]  # where the crashed one was bound


def test_where_nan_stands_for_no_value_a_crash_is_a_crash(bring_in, tmp_path):
    header = ["state", "matrix_lr", "val_bpb", "note"]
    rows = [["finished", 0.1, 1.2, "NaN"], ["crashed", 0.2, "NaN", "NaN"]]
    report = bring_in(write_csv(tmp_path / "runs.csv", header, *rows))
    assert report.stored == {"complete": 1} and reasons(report) == {"it did not finish": 1}


def test_an_optuna_trial_whose_values_are_not_finite_diverged(bring_in, service, tmp_path):
    url = f"sqlite:///{tmp_path / 'theirs.db'}"
    theirs = optuna.create_study(storage=url)
    for value, last in ((1.2, 1.3), (float("inf"), 1.3), (float("nan"), 1.3), (float("nan"), float("nan"))):
        trial = theirs.ask()
        trial.suggest_float("matrix_lr", 0.001, 1, log=True)
        trial.report(2.0, 1)
        trial.report(last, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna says that it makes NaN a failure
            theirs.tell(trial, value)
    report = bring_in(tmp_path / "theirs.db")
    assert report.stored == {"complete": 1, "diverged": 2} and reasons(report) == {"it did not finish": 1}
    assert "NaN" in report.skipped[0].detail
    assert len(contents(service)["sweeper_points"]) == 2 + 2 + 1
    theirs._storage.remove_session()  # type: ignore[attr-defined]


def test_units_are_converted_and_constants_stand_for_what_no_column_says(bring_in, service, tmp_path):
    header = ["lr", "batch_size", "loss", "iters_k"]
    table = write_csv(tmp_path / "runs.csv", header, [0.01, 64, 3.5, 5], [0.02, 128, 3.3, 5])
    report = bring_in(
        table,
        mapping=(
            *("lr=optim.matrix_lr", "batch_size=data.batch_tokens*1024", "loss=score*1.442695/4.5"),
            "iters_k=steps*1e3",
        ),
        constants=("parameters=124e6", "model.num_layers=12"),
    )
    assert report.stored == {"complete": 2} and json.loads(report.axes["data.batch_tokens"])["choice"] == [
        65_536, 131_072,
    ]  # fmt: skip
    first, second = trials(service)
    assert first.score == pytest.approx(3.5 / math.log(2) / 4.5, rel=1e-5)
    assert (second.step, second.tokens, second.parameters) == (5000, 5000 * 131_072, 124_000_000)
    assert first.config["model"] == {"num_layers": 12}
    assert report.examples["data.batch_tokens"] == ("64", "65536")
    assert not any("no law" in note for note in report.notes)


def test_a_newcomer_is_told_what_to_map(bring_in, tmp_path):
    header = ["run", "config.optimizer.lr", "batch_size", "val_loss", "status"]
    table = write_csv(tmp_path / "runs.csv", header, ["a", 0.01, 64, 3.5, "ok"], ["b", 0.02, 64, 3.3, "ok"])
    with pytest.raises(SweeperError, match=r"--map config\.optimizer\.lr=optim\.matrix_lr .*SEQ_LEN is the number"):
        bring_in(table)
    report = bring_in(table, constants=("parameters=1e8",), dry_run=True)
    assert report.proposed == {
        "run": "name",
        "config.optimizer.lr": "optim.matrix_lr",
        "batch_size": "data.batch_tokens*SEQ_LEN",
    }
    report = bring_in(table, mapping=("val_loss=score*0.32", "config.optimizer.lr=optim.matrix_lr"))
    assert any("number of parameters" in note and "tokens" in note for note in report.notes)


def test_european_tables_and_objects_over_several_lines_are_read(bring_in, tmp_path):
    (tmp_path / "a.csv").write_text("matrix_lr;val_bpb\n0.1;1.2\n0.2;1.3\n")
    (tmp_path / "b.json").write_text(json.dumps({"config": {"matrix_lr": 0.15}, "val_bpb": 1.25}, indent=2))
    assert bring_in(tmp_path / "a.csv", tmp_path / "b.json").stored == {"complete": 3}
