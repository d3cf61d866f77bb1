"""Exported files, read back by other libraries."""

import csv
import json

import pyarrow.parquet
import pytest

from sweeper import storage
from sweeper.errors import SweeperError
from sweeper.export import export
from sweeper.tables import ExportRow, OutcomeRow, PointRow, RunRow, StudyRow

FORMS = ["csv", "json", "parquet"]


@pytest.fixture
def engine(tmp_path):
    """Two trials, the second pruned; a choice that mixes numbers and words."""
    made = storage.open_engine(f"sqlite:///{tmp_path / 'sweeper.db'}")
    storage.migrate(made)
    with storage.write(made) as session:
        session.add(StudyRow(id=1, name="toy", spec={"judge": "quantised"}, fingerprint="", created_at=1.0))
        session.flush()
        for number, state, choice in ((0, "complete", 3), (1, "pruned", "none")):
            params = {"optim.matrix_lr": 0.02 + number, "some.choice": choice}
            run = RunRow(
                id=number + 1, study_id=1, kind="trial", number=number, params=params, config={}, state=state,
                created_at=1.0, tokens=100, seconds=2.0, score=1.5 if number == 0 else None,
                infeasible="artifact_bytes 17 over 16" if number == 0 else "",
            )  # fmt: skip
            session.add(run)
            session.flush()
            where = {"run_id": run.id, "tokens": 50, "seconds": 1.0, "progress": 0.5}
            session.add(PointRow(seq=1, step=1, train_loss=0.1 + 0.2, lr_factor=1.0, tokens_per_second=50.0, **where))
            session.add(PointRow(seq=2, step=1, fraction=0.5, val_loss=2.0, val_bpb=1.25, val_bpb_stderr=0.01, **where))
        outcome = {"tokens": 100, "step": 2, "seconds": 2.0, "val_loss": 2.0, "val_bpb": 1.25, "val_tokens": 9}
        outcome |= {"val_bpb_stderr": 0.002}
        session.add(OutcomeRow(run_id=1, **outcome))
        smaller = outcome | {"tokens": 50, "step": 1, "seconds": 0.5, "budget": 0.5, "branch_seconds": 0.25}
        session.add(OutcomeRow(run_id=1, **smaller | {"val_bpb": 1.75}))
        session.add(OutcomeRow(run_id=2, **smaller | {"val_bpb": 1.875}))
        export = {"scheme": "int8", "codec": "zlib", "code_bytes": 0, "raw_bytes": 20, "val_bpb": 1.5, "gap": 0.25}
        session.add(ExportRow(run_id=1, artifact_bytes=17, export_seconds=1.0, **export))
    yield made
    made.dispose()


def read(path, form):
    """The file's rows as texts, None and empty alike."""
    if form == "csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    elif form == "json":
        rows = json.loads(path.read_text())
    else:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    return [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_holds_the_same_trials_and_points(engine, tmp_path, form):
    trials, curves, outcomes = (read(path, form) for path in export(engine, "toy", form, tmp_path / "out"))

    assert [trial["state"] for trial in trials] == ["complete", "pruned"]
    assert [trial["final_val_bpb"] for trial in trials] == ["1.25", ""]
    assert [trial["final_val_bpb_stderr"] for trial in trials] == ["0.002", ""]
    assert [trial["score"] for trial in trials] == ["1.5", ""]
    assert {trial["judge"] for trial in trials} == {"quantised"}
    assert [trial["infeasible"] for trial in trials] == ["artifact_bytes 17 over 16", ""]
    assert [trial["artifact_bytes"] for trial in trials] == ["17", ""]
    assert [trial["params.optim.matrix_lr"] for trial in trials] == ["0.02", "1.02"]
    assert [trial["params.some.choice"] for trial in trials] == ["3", "none"]
    assert [(point["number"], point["seq"]) for point in curves] == [("0", "1"), ("0", "2"), ("1", "1"), ("1", "2")]
    assert curves[0]["train_loss"] == repr(0.1 + 0.2)  # to the last digit
    assert curves[0]["val_bpb"] == "" and curves[1]["val_bpb"] == "1.25"
    assert curves[0]["val_bpb_stderr"] == "" and curves[1]["val_bpb_stderr"] == "0.01"
    assert [(row["number"], row["state"], row["budget"], row["val_bpb"]) for row in outcomes] == [
        ("0", "complete", "0.5", "1.75"),
        ("0", "complete", "", "1.25"),
        ("1", "pruned", "0.5", "1.875"),
    ]
    assert [row["branch_seconds"] for row in outcomes] == ["0.25", "0.0", "0.25"]


def test_parquet_columns_are_typed(engine, tmp_path):
    paths = export(engine, "toy", "parquet", tmp_path)
    assert [path.name for path in paths] == ["trials.parquet", "curves.parquet", "outcomes.parquet"]
    trials, curves, outcomes = (pyarrow.parquet.read_schema(path) for path in paths)
    assert str(trials.field("params.optim.matrix_lr").type) == "double"
    assert str(trials.field("params.some.choice").type) == "string"
    assert str(curves.field("step").type) == "int64"
    assert str(outcomes.field("budget").type) == "double"


def test_an_unknown_study_and_a_folder_that_cannot_be_are_refused(engine, tmp_path):
    with pytest.raises(SweeperError, match="elsewhere"):
        export(engine, "elsewhere", "csv", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SweeperError, match="--out"):
        export(engine, "toy", "csv", tmp_path / "file")
