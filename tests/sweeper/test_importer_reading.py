"""What single logs and cells are read as, and the command line of an import."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.importing import logs, rows, tables
from sweeper.importing.logs import Reading
from sweeper.importing.names import Names, convert, number
from sweeper.importing.runs import Run, Skipped
from tests.sweeper import forked
from tests.sweeper.foreign_runs import log, some_logs, write_csv, write_logs

PLAIN = Reading(columns={}, known=frozenset())


def table(*cells: dict[str, Any]) -> tables.Table:
    columns = list(dict.fromkeys(name for row in cells for name in row))
    placed = [(f"row {place}", row) for place, row in enumerate(cells)]
    return tables.Table(source="t", columns=columns, rows=placed, broken=[], curves={})


def understood(*cells: dict[str, Any], **columns: str) -> list[Run | Skipped]:
    return rows.understand(table(*cells), Names(columns), frozenset(), {}).runs


@pytest.mark.parametrize(
    ("column", "target"),
    [
        ("optim.matrix_lr", "optim.matrix_lr"),
        ("MATRIX_LR", "optim.matrix_lr"),
        ("config.matrix_lr", "optim.matrix_lr"),
        ("config/num_layers.value", "model.num_layers"),
        ("params_n_layer", "trainer.n_layer"),
        ("params.data.batch_tokens", "data.batch_tokens"),
        ("TIED_EMBED_LR", "optim.embed_lr"),
        ("SEED", "seeds.init"),
        ("val_bpb", "score"),
        ("Runtime", "wall_seconds"),
        ("WARMDOWN_ITERS", None),  # steps, where schedule.warmdown is a share of the budget
        ("warmdown", None),
        ("lr", None),
    ],
)
def test_known_names_need_no_mapping_and_doubtful_ones_do(column, target):
    assert Names({}).target(column) == target


def test_the_first_of_several_score_columns_counts_and_a_mapped_one_before_it():
    columns = ["val_bpb", "score", "mine", "matrix_lr"]
    assert Names({}).choose(columns) == ({"score": "score", "optim.matrix_lr": "matrix_lr"}, ["val_bpb", "mine"])
    used, unused = Names({"mine": "score"}).choose(columns)
    assert used["score"] == "mine" and sorted(unused) == ["score", "val_bpb"]
    assert Names({"mine": "-"}).choose(columns)[1] == ["val_bpb"]


@pytest.mark.parametrize(("text", "value"), [("1,000", 1000), (" 0.5 ", 0.5), ("1e-3", 0.001), ("-2", -2)])
def test_numbers_are_read_as_people_write_them(text, value):
    assert number(text) == value


@pytest.mark.parametrize("text", ["", "1,5", "nan", "inf", "1e999", "0x10", "1.5s", "True", True, None])
def test_what_is_no_finite_number_is_refused(text):
    with pytest.raises(ValueError, match="number"):
        number(text)


def test_values_take_the_type_of_their_path():
    assert convert("data.batch_tokens", "524288.0") == 524_288
    assert convert("model.tie_embeddings", "True") is True
    assert convert("model.mlp_mult", "3") == 3.0
    assert [convert("trainer.X", raw) for raw in ("3", "3.0", "a", "false")] == [3, 3.0, "a", False]
    with pytest.raises(ValueError, match="whole number"):
        convert("data.batch_tokens", "0.5")


def test_the_hyperparameters_of_a_log_are_those_it_prints_not_those_of_its_source(tmp_path):
    path = tmp_path / "x.log"
    path.write_text(log(0.0123, seed=7) + "muon_wd:0.04 qk_gain:5\n")
    run = logs.read(path, Reading(columns={"muon_wd": "optim.matrix_weight_decay"}, known=frozenset()))
    assert isinstance(run, Run)
    assert run.values["optim.matrix_lr"] == 0.0123 and run.values["seeds.init"] == 7
    assert run.values["optim.matrix_weight_decay"] == 0.04 and run.values["model.num_kv_heads"] == 4


def test_an_indented_dump_of_hyperparameters_is_read_too(tmp_path):
    path = tmp_path / "x.log"
    dump = "Hyperparameters:\n  matrix_lr: 0.02\n  num_layers: 11\n  max_wallclock_seconds: 600.0\n"
    curve = "500/20000 train_loss: 3.01 train_time: 5.0m\n1000/20000 val_loss: 3.0 val_bpb: 1.2 train_time: 10.0m\n"
    path.write_text(f"{dump}{curve}final_int8_zlib_roundtrip_exact val_loss:3.1 val_bpb:1.25\n")
    run = logs.read(path, PLAIN)
    assert isinstance(run, Run) and run.state == "complete"
    assert run.values["model.num_layers"] == 11 and run.judged == {"streamed": 1.2, "final": 1.2, "quantised": 1.25}


def test_equal_rows_under_another_name_are_two_runs_and_the_same_row_is_one():
    first, again, other = understood(
        *({"name": name, "matrix_lr": 0.1, "val_bpb": 1.2} for name in ("a", "a", "b")),
    )
    assert isinstance(first, Run) and isinstance(again, Run) and isinstance(other, Run)
    assert first.identity == again.identity != other.identity


@pytest.mark.parametrize("figure", ["steps", "tokens", "parameters", "seconds"])
def test_a_figure_that_fits_no_column_loses_its_run_alone(figure):
    (found,) = understood({"matrix_lr": 0.1, "val_bpb": 1.2, figure: "1e300"})
    assert isinstance(found, Skipped) and found.reason == "a number out of range"


@given(st.lists(st.text(max_size=12) | st.floats() | st.integers() | st.none() | st.booleans(), min_size=6, max_size=6))
def test_no_row_can_break_an_import(cells):
    names = ("name", "state", "val_bpb", "tokens", "batch_tokens", "created")
    (found,) = understood(dict(zip(names, cells, strict=True)))
    assert isinstance(found, (Run, Skipped))
    if isinstance(found, Run):
        json.dumps([found.values, found.judged, found.outcomes], allow_nan=False)


@given(st.lists(st.sampled_from(log().splitlines()) | st.text(max_size=30), max_size=40))
def test_no_log_can_break_an_import(tmp_path_factory, lines):
    path: Path = tmp_path_factory.getbasetemp() / "any.log"
    path.write_text("\n".join(lines), errors="replace")
    assert isinstance(logs.read(path, PLAIN), (Run, Skipped))


def test_a_folder_means_its_logs_and_text_files_only_where_there_are_none(tmp_path):
    write_logs(tmp_path / "a", some_logs(2))
    (tmp_path / "a" / "requirements.txt").write_text("torch")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "id.txt").write_text(log())
    assert [path.name for path in logs.find([str(tmp_path / "a")])] == ["train.log", "train.log"]
    assert [path.name for path in logs.find([str(tmp_path / "b")])] == ["id.txt"]
    assert len(logs.find([str(tmp_path / "a" / "**" / "*.log"), str(tmp_path / "a")])) == 2


def sweeper(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SWEEPER_HOME": str(home), "SWEEPER_STORAGE": "", "COLUMNS": "200"}
    return forked.sweeper(*words, environment=environment, timeout=120)


def test_the_command_stores_reports_and_says_when_there_was_nothing_to_store(tmp_path):
    home, folder = tmp_path / "home", str(write_logs(tmp_path / "logs", [*some_logs(3), log(upto=0.5)]))
    dry = sweeper(home, "import", folder, "--study", "old", "--dry-run")
    assert dry.returncode == 0 and "would store 3 (3 complete)" in dry.stdout and not home.exists()

    done = sweeper(home, "import", folder, "--study", "old", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stored"] == {"complete": 3}
    again = sweeper(home, "import", folder, "--study", "old")
    assert again.returncode == 0 and "stored 0, there already 3, skipped 1" in again.stdout
    assert "best: trial 0 quantised" in sweeper(home, "status", "--study", "old").stdout

    assert sweeper(home, "export", "--study", "old", "--out", str(tmp_path / "out")).returncode == 0
    back = sweeper(home, "import", str(tmp_path / "out" / "trials.csv"), "--study", "back", "--json")
    assert json.loads(back.stdout)["stored"] == {"complete": 3}

    empty = write_csv(tmp_path / "empty.csv", ["lr", "loss"], [1, 2])
    none = sweeper(home, "import", str(empty), "--study", "none")
    assert none.returncode == 1 and "a missing column" in none.stdout and "Traceback" not in none.stderr
    wrong = sweeper(home, "import", str(tmp_path / "gone"), "--study", "none")
    assert wrong.returncode == 2 and "leads to no log" in wrong.stderr
