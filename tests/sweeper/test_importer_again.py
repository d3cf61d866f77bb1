"""Imports after the first: wider axes, in Optuna too, and no run twice, however its source was changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from sweeper import control
from sweeper.importing import importer
from sweeper.importing.importer import Order
from sweeper.importing.mapping import load_mapping
from sweeper.importing.store import BATCH_RUNS
from sweeper.service import Conflict, find_study, spec_of
from tests.sweeper.foreign_runs import contents, log, optuna_trials, reasons, some_logs, trials, write_csv, write_logs

HEADER = ["name", "matrix_lr", "trainer.kind", "trainer.width", "val_bpb"]


def row(number: int, kind: Any = "a", width: int = 64, rate: float | None = None) -> list[Any]:
    return [f"run-{number}", rate or 0.01 * 1.01**number, kind, width, 1.2 + 0.01 * number]


def resume(service, **changes: Any) -> Any:
    """The study running, with room for more trials; its search."""
    with service.write() as session:
        found = find_study(session, "other")
        found.spec = {**found.spec, **changes, "trials": 40}
    control.set_state(service, "other", "resume")
    with service.read() as session:
        return service.search(spec_of(find_study(session, "other")))


def test_values_outside_the_choices_become_choices_of_every_trial(bring_in, service, opener, tmp_path):
    bring_in(write_csv(tmp_path / "a.csv", HEADER, *(row(n, "ba"[n % 2], (64, 128)[n % 2]) for n in range(4))))
    before = [(trial.params, trial.value) for trial in optuna_trials(service)]

    report = bring_in(write_csv(tmp_path / "b.csv", HEADER, row(4, "Z", 96), row(5, "a", 64)))
    assert report.stored == {"complete": 2} and not report.skipped
    assert json.loads(report.axes["trainer.kind"]) == {"choice": ["Z", "a", "b"]}
    assert json.loads(report.axes["trainer.width"]) == {"choice": [64, 96, 128]}
    assert any('trainer.kind was {"choice": ["a", "b"]}' in note for note in report.notes)
    told = optuna_trials(opener())  # one that has read no trial before
    assert [(trial.params, trial.value) for trial in told[:4]] == before
    assert [trial.params for trial in told] == [run.params for run in trials(service)]
    assert {trial.distributions["trainer.kind"] for trial in told} == {CategoricalDistribution(("Z", "a", "b"))}


def test_choices_become_a_range_where_the_first_import_would_have_made_one(bring_in, service, tmp_path):
    bring_in(write_csv(tmp_path / "a.csv", HEADER, row(0), row(1, width=128)))
    report = bring_in(write_csv(tmp_path / "b.csv", HEADER, *(row(n, width=32 * n) for n in range(3, 12))))
    assert report.stored == {"complete": 9} and json.loads(report.axes["trainer.width"]) == {
        "int": [64, 352], "log": True,
    }  # fmt: skip
    told = optuna_trials(service)
    assert {trial.distributions["trainer.width"] for trial in told} == {IntDistribution(64, 352, log=True)}
    assert [trial.params["trainer.width"] for trial in told[:2]] == [64, 128]


def test_zero_on_a_log_axis_makes_it_linear(bring_in, service, tmp_path):
    header = ["matrix_lr", "matrix_weight_decay", "val_bpb"]
    bring_in(write_csv(tmp_path / "a.csv", header, [0.01, 0.01, 1.2], [0.02, 0.1, 1.3]))
    report = bring_in(write_csv(tmp_path / "b.csv", header, [0.01, 0, 1.25]))
    assert report.stored == {"complete": 1}
    assert json.loads(report.axes["optim.matrix_weight_decay"]) == {"uniform": [0.0, 0.1]}
    assert [trial.params["optim.matrix_weight_decay"] for trial in optuna_trials(service)] == [0.01, 0.1, 0.0]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_widened_study_is_searched_on(bring_in, service, opener, tmp_path, fresh):
    bring_in(write_csv(tmp_path / "a.csv", HEADER, *(row(n, "ba"[n % 2]) for n in range(12))))
    assert len(optuna_trials(service)) == 12  # which Optuna keeps in memory
    bring_in(write_csv(tmp_path / "b.csv", HEADER, *(row(n, "cd"[n % 2]) for n in range(12, 16))))

    search = resume(opener() if fresh else service)
    drawn = [search.next_trial(lambda numbers: set(numbers)) for _ in range(3)]
    assert [one.number for one in drawn] == [16, 17, 18]
    assert all(one.params["trainer.kind"] in "abcd" for one in drawn)
    if fresh:  # what all trials have alike, which is all that some samplers take
        common = optuna.search_space.intersection_search_space(search.trials(), include_pruned=True)
        assert "trainer.kind" in common


def test_choices_are_not_added_once_the_study_has_drawn_trials_of_its_own(bring_in, service, tmp_path):
    bring_in(write_csv(tmp_path / "a.csv", HEADER, row(0), row(1, "b")))
    search = resume(service)
    search.next_trial(lambda numbers: set(numbers))
    control.set_state(service, "other", "stop")

    report = bring_in(write_csv(tmp_path / "b.csv", HEADER, row(2, "c"), row(3, rate=5.0)))
    assert report.stored == {"complete": 1} and reasons(report) == {"off an axis of the study": 1}
    assert "another name" in report.skipped[0].detail


def test_an_import_that_another_one_overtook_is_refused_and_doubles_nothing(bring_in, service, tmp_path):
    bring_in(write_csv(tmp_path / "a.csv", HEADER, row(0), row(1, "b")))
    overtaken = write_csv(tmp_path / "b.csv", HEADER, *(row(n, "c") for n in range(2, 2 + 2 * BATCH_RUNS)))

    def someone_else(verb: str, done: int, total: int) -> None:
        if (verb, done) == ("storing", BATCH_RUNS):
            bring_in(write_csv(tmp_path / "c.csv", HEADER, row(1000, "d", rate=0.5)))

    order = Order(sources=[str(overtaken)], study="other", mapping=load_mapping([]))
    with pytest.raises(Conflict, match="import again"):
        importer.run(order, service, someone_else)
    assert len(trials(service)) == len(optuna_trials(service)) == 3 + BATCH_RUNS
    assert bring_in(overtaken).stored == {"complete": BATCH_RUNS}
    assert len({trial.params["optim.matrix_lr"] for trial in optuna_trials(service)}) == 3 + 2 * BATCH_RUNS


def test_a_table_that_was_renamed_or_has_grown_brings_no_run_twice(bring_in, service, tmp_path):
    table = write_csv(tmp_path / "a.csv", HEADER, *(row(n) for n in range(5)))
    bring_in(table)
    grown = table.rename(tmp_path / "b.csv")
    assert bring_in(grown).there == 5
    with grown.open("a") as file:
        file.writelines(",".join(map(str, row(n))) + "\n" for n in range(5, 15))
    report = bring_in(grown)
    assert (report.there, report.stored, len(trials(service))) == (5, {"complete": 10}, 15)


def test_the_same_rows_under_another_mapping_or_with_more_columns_are_the_same_runs(bring_in, service, tmp_path):
    header = ["Name", "Created", "matrix_lr", "wd", "val_bpb"]
    rows = [[f"r{n}", f"2026-02-0{1 + n}T10:00:00Z", 0.01 * (1 + n), 0.1, 1.2 + n] for n in range(4)]
    bring_in(write_csv(tmp_path / "a.csv", header, *rows))
    assert bring_in(tmp_path / "a.csv", mapping=("wd=optim.matrix_weight_decay",)).there == 4
    wider = write_csv(tmp_path / "b.csv", [*header, "Tags"], *([*one, "x"] for one in rows))
    assert bring_in(wider).there == 4 and len(trials(service)) == 4


def test_runs_of_one_name_and_second_are_told_apart_by_their_cells(bring_in, tmp_path):
    header = ["Name", "Created", "matrix_lr", "val_bpb"]
    rows = [["same", "2026-02-01T10:00:00Z", 0.01 * (1 + n), 1.2 + n] for n in range(3)]
    table = write_csv(tmp_path / "a.csv", header, *rows, rows[0])
    report = bring_in(table)
    assert report.stored == {"complete": 3} and reasons(report) == {"a copy of another one": 1}
    assert bring_in(table).there == 4


def test_a_log_that_was_renamed_or_written_on_is_the_same_run(bring_in, service, tmp_path):
    folder = write_logs(tmp_path / "logs", some_logs(3))
    bring_in(folder)
    before = contents(service)
    first = folder / "run-0" / "train.log"
    with first.open("a") as file:
        file.writelines(f"[I] teardown {line}\n" for line in range(9))
        file.write("final_int8_zlib_roundtrip_exact val_loss:2.0 val_bpb:1.19\n")
    first.rename(folder / "run-0" / "renamed.log")
    report = bring_in(folder)
    assert (report.there, report.stored) == (3, {}) and contents(service) == before
    assert "1 logs that are there already have grown" in report.notes[0]


def test_logs_without_times_differ_by_their_final_scores(bring_in, tmp_path):
    texts = [log(0.04, bpb).replace("train_time", "clock") for bpb in (1.2, 1.2)]
    texts[1] = texts[1].replace("val_bpb:1.20700000", "val_bpb:1.21000000")
    assert bring_in(write_logs(tmp_path / "logs", texts)).stored == {"complete": 2}


def test_runs_that_an_earlier_version_stored_are_known(bring_in, service, tmp_path: Path):
    """It knew logs by their bytes, and rows by what the mapping made of them."""
    folder = write_logs(tmp_path / "logs", some_logs(1))
    bring_in(folder)
    raw = hashlib.sha256((folder / "run-0" / "train.log").read_bytes()).hexdigest()
    with service.write() as session:
        (run,) = trials(service)
        session.merge(run).versions = {"imported": raw, "source": "x"}
    assert bring_in(folder).there == 1
