"""A study as files for other tools: trials, every point of every curve, every outcome, as CSV, JSON or Parquet;
or whole, as an archive."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine, select
from sqlalchemy.orm import InstrumentedAttribute

from sweeper import archive_rows
from sweeper.errors import SweeperError
from sweeper.importing.store import CONTENT, IDENTITY, SOURCE
from sweeper.records import TrialRow
from sweeper.results import Results
from sweeper.tables import OutcomeRow, PointRow, RunRow, StudyRow

Format = Literal["archive", "csv", "json", "parquet"]

TRIAL_COLUMNS: dict[str, pa.DataType] = {
    "number": pa.int64(),
    "state": pa.string(),
    "reason": pa.string(),
    "attempt": pa.int64(),
    "judge": pa.string(),
    "score_unit": pa.string(),
    "score": pa.float64(),
    "score_stderr": pa.float64(),
    "infeasible": pa.string(),
    "artifact_bytes": pa.int64(),
    "final_val_bpb": pa.float64(),
    "final_val_bpb_stderr": pa.float64(),
    "streamed_val_bpb": pa.float64(),
    "train_loss": pa.float64(),
    "progress": pa.float64(),
    "tokens": pa.int64(),
    "seconds": pa.float64(),
    "wall_seconds": pa.float64(),
    "tokens_per_second": pa.float64(),
    "created_at": pa.float64(),
    "started_at": pa.float64(),
    "ended_at": pa.float64(),
    "worker": pa.string(),
    "device": pa.string(),
    "device_name": pa.string(),
}
"""Fields of records.TrialRow, as `judge` which score `score` is, and as `score_unit` what it and every val_bpb count;
the searched values follow as `params.PATH`."""

CURVE_COLUMNS: dict[str, pa.DataType] = {
    "kind": pa.string(),
    "number": pa.int64(),
    "attempt": pa.int64(),
    "seq": pa.int64(),
    "step": pa.int64(),
    "tokens": pa.int64(),
    "seconds": pa.float64(),
    "progress": pa.float64(),
    "fraction": pa.float64(),
    "train_loss": pa.float64(),
    "lr_factor": pa.float64(),
    "tokens_per_second": pa.float64(),
    "val_loss": pa.float64(),
    "val_bpb": pa.float64(),
    "val_bpb_stderr": pa.float64(),
}
"""One row a point, all attempts of trials and promotions; a column is null where a point has no such value."""

OUTCOME_COLUMNS: dict[str, pa.DataType] = {
    "kind": pa.string(),
    "number": pa.int64(),
    "attempt": pa.int64(),
    "state": pa.string(),
    "budget": pa.float64(),
    "step": pa.int64(),
    "tokens": pa.int64(),
    "seconds": pa.float64(),
    "branch_seconds": pa.float64(),
    "val_loss": pa.float64(),
    "val_bpb": pa.float64(),
    "val_bpb_stderr": pa.float64(),
    "val_tokens": pa.int64(),
}
"""One row an outcome, all attempts of trials and promotions: `budget` is that of a branch in the unit of the run's own,
null for the full one; `seconds` are those of a run of that budget, `branch_seconds` of which the branch took."""

BATCH_ROWS = 10_000


def export(engine: Engine, study: str, form: Format, folder: Path) -> list[Path]:
    """Write `trials.EXT`, `curves.EXT` and `outcomes.EXT` into `folder`, or the study's archive; returns their paths.

    JSON files are one array of objects each.  Curves are streamed, so memory does not grow with the study.

    Raises:
        SweeperError: no such study, or the folder cannot be written.
    """
    results = Results(engine)
    trials, summary = results.trials(study), results.study(study)
    alike: dict[str, str] = {"judge": summary.judge, "score_unit": summary.unit.words}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if form == "archive":
            return [archive_rows.write(engine, study, folder, without=(IDENTITY, CONTENT, SOURCE))]
        paths = [folder / f"{table}.{form}" for table in ("trials", "curves", "outcomes")]
        _write(paths[0], form, _trial_schema(trials), iter([[_trial(row, alike) for row in trials]]))
        _write(paths[1], form, pa.schema(CURVE_COLUMNS.items()), _points(engine, study))
        _write(paths[2], form, pa.schema(OUTCOME_COLUMNS.items()), _outcomes(engine, study))
    except OSError as error:
        raise SweeperError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    return paths


def _trial(row: TrialRow, alike: dict[str, str]) -> dict[str, Any]:
    """
    Args:
        alike: columns that are the same for all.
    """
    values = {name: alike[name] if name in alike else getattr(row, name) for name in TRIAL_COLUMNS}
    return values | {f"params.{path}": value for path, value in row.params.items()}


def _trial_schema(trials: list[TrialRow]) -> pa.Schema:
    samples: dict[str, list[Any]] = {}
    for trial in trials:
        for path, value in trial.params.items():
            samples.setdefault(f"params.{path}", []).append(value)
    return pa.schema([*TRIAL_COLUMNS.items(), *((name, _type_of(found)) for name, found in samples.items())])


def _type_of(values: list[Any]) -> pa.DataType:
    """The narrowest column for searched values: a choice may mix kinds, which then become text."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()


def _points(engine: Engine, study: str) -> Iterator[list[dict[str, Any]]]:
    return _rows(engine, study, PointRow, CURVE_COLUMNS, PointRow.seq)


def _outcomes(engine: Engine, study: str) -> Iterator[list[dict[str, Any]]]:
    return _rows(engine, study, OutcomeRow, OUTCOME_COLUMNS, OutcomeRow.tokens)


def _rows(
    engine: Engine,
    study: str,
    table: type[PointRow] | type[OutcomeRow],
    columns: Iterable[str],
    order: InstrumentedAttribute[int],
) -> Iterator[list[dict[str, Any]]]:
    """The table's rows of all runs of the study, in batches; what says which run it is comes from the run."""
    own = {"kind", "number", "attempt", "state"}
    query = (
        select(*(getattr(RunRow if name in own else table, name) for name in columns))
        .join(RunRow, RunRow.id == table.run_id)
        .join(StudyRow, StudyRow.id == RunRow.study_id)
        .where(StudyRow.name == study)
        .order_by(RunRow.kind.desc(), RunRow.number, RunRow.attempt, order)
    )
    with engine.connect() as connection:
        rows = connection.execution_options(yield_per=BATCH_ROWS).execute(query)
        for part in rows.partitions(BATCH_ROWS):
            yield [dict(row._mapping) for row in part]


def _write(path: Path, form: Format, schema: pa.Schema, batches: Iterator[list[dict[str, Any]]]) -> None:
    if form == "parquet":
        with pq.ParquetWriter(path, schema) as writer:
            for batch in batches:
                writer.write_table(pa.Table.from_pylist([_as_schema(row, schema) for row in batch], schema))
    elif form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, schema.names)
            rows.writeheader()
            for batch in batches:
                rows.writerows(batch)
    else:
        with path.open("w", encoding="utf-8") as file:
            file.write("[")
            separator = "\n"
            for batch in batches:
                for row in batch:
                    file.write(separator + json.dumps(row, allow_nan=False))
                    separator = ",\n"
            file.write("\n]\n")


def _as_schema(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Text for the searched values whose column had to become text."""
    return {
        name: str(value)
        if pa.types.is_string(schema.field(name).type) and value is not None and not isinstance(value, str)
        else value
        for name, value in row.items()
    }
