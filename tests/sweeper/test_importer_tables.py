"""Tables and other Optuna studies, imported: mappings, reasons, curves."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import optuna
import pytest
from sqlalchemy import func, select

from sweeper.errors import SweeperError
from sweeper.results import Results
from sweeper.service import Service
from sweeper.settings import Settings
from sweeper.tables import RunRow
from tests.sweeper.foreign_runs import (
    Import,
    contents,
    importer_into,
    reasons,
    trials,
    write_csv,
)


@pytest.fixture
def service(storage_url: str, tmp_path: Path) -> Generator[Service]:
    made = Service.open(Settings(home=tmp_path / "home", storage=storage_url))
    yield made
    made.close()


@pytest.fixture
def bring_in(service: Service) -> Import:
    return importer_into(service)


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
    assert report.stored == {"complete": 5}
    assert sorted(report.unused) == ["Tags", "config.gpu_kind"]
    assert reasons(report) == {
        "a broken row": 1,
        "it did not finish": 1,
        "a value that does not parse": 1,
        "the score is not finite": 1,
        "no score": 1,
    }
    assert json.loads(report.axes["optim.matrix_lr"]) == {"log": [0.01, 0.05]}
    assert json.loads(report.axes["optim.matrix_weight_decay"]) == {"uniform": [0.0, 0.4]}
    best = Results(service.engine).study("other").best
    assert best is not None and best.number == 4 and best.val_bpb == pytest.approx(1.26)
    assert bring_in(table, mapping=("wd=optim.matrix_weight_decay",)).there == 5


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
