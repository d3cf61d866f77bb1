"""Studies that left another installation whole: their runs, and the study as its owner wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sweeper import archive
from sweeper.archive import ArchivedRun
from sweeper.errors import SweeperError
from sweeper.importing import axes
from sweeper.importing.runs import THERE, Run, Skipped, checked, identity_of
from sweeper.importing.store import Known
from sweeper.space import check
from sweeper.study import StudySpec, incompatibilities, verify
from sweeper.study_checks import explain, leaves
from trainer import events

ROW = (
    *("attempt", "wall_seconds", "device", "versions", "git_commit", "resumed_step"),
    *("score", "score_stderr", "infeasible"),
)
"""Columns of a run's row that a Run has no place for."""
TIMES = ("created_at", "started_at", "ended_at")
FIGURES = (
    *("state", "reason", "started_at", "device_name", "parameters", "peak_memory_bytes"),
    *("step", "tokens", "seconds", "wall_seconds", "progress", "train_loss", "val_bpb"),
)


def read(path: Path, name: str, there: frozenset[str]) -> tuple[StudySpec, list[Run | Skipped]]:
    """The archive's study under another name, and its runs.

    Args:
        there: identities of runs that the study `name` has.

    Raises:
        SweeperError: it cannot be read whole, or its study is none to this version of sweeper.
    """
    header, archived = archive.read(path)
    spec = _spec(path, header.spec, name)
    return spec, [_taken(path, run, spec, there) for run in archived]


def _spec(path: Path, plain: dict[str, Any], name: str) -> StudySpec:
    values = plain | {"name": name}
    if isinstance(plan := plain.get("plan"), dict):
        values["plan"] = plan | {"study": name}
    try:
        return StudySpec.model_validate(values)
    except ValidationError as error:
        raise SweeperError(
            f"{path}: its study is none to this version of sweeper: {explain(error, StudySpec)}"
        ) from error


def _taken(path: Path, told: ArchivedRun, spec: StudySpec, there: frozenset[str]) -> Run | Skipped:
    where = f"{path.name} trial {told.number}"
    identity = identity_of("archive", told.number, told.params, told.started_at, told.seconds)
    if identity in there:
        return Skipped(source=where, reason=THERE)
    try:
        params = check(spec.space, told.params)
    except SweeperError as error:
        raise SweeperError(f"{path} is damaged: trial {told.number}: {error}") from error
    run = Run(source=where, identity=identity, name=f"trial {told.number}", values=dict(leaves(told.config)) | params)
    _tell(path, run, told)
    for field in FIGURES:
        setattr(run, field, getattr(told, field))
    run.config = told.config
    run.row = {field: getattr(told, field) for field in ROW}
    run.row |= {field: at for field in TIMES if (at := getattr(told, field)) is not None}
    if told.score is not None:
        run.judged[spec.judge] = told.score
    return checked(run)


def _tell(path: Path, run: Run, told: ArchivedRun) -> None:
    at = told.started_at or 0.0
    try:
        for event in told.events:
            seq = int(event.get("seq", run.last_seq + 1))
            run.last_seq = seq - 1
            run.tell([events.from_dict(event)], float(event.get("at", at)))
    except (ValueError, TypeError) as error:
        raise SweeperError(f"{path} is damaged: trial {told.number}: {error}") from error


def fit(runs: list[Run], name: str, archived: StudySpec, old: Known) -> axes.Fit:
    """The archived study with these runs, or the one that is there with them.

    Raises:
        SweeperError: the study that is there is another one.
    """
    if old.spec is None:
        notes = []
        try:
            verify(archived)
        except SweeperError as error:
            notes.append(f"it cannot be resumed as it is: {str(error).splitlines()[0]}")
        return axes.Fit(spec=archived, runs=runs, skipped=[], notes=notes)
    differences = incompatibilities(old.spec, archived)
    if differences:
        listed = "\n".join(f"  {line}" for line in differences)
        raise SweeperError(
            f"study {name} is another one than the archive's:\n{listed}\nImport it into a study of another name"
        )
    return axes.fit(
        runs, name, old=old.spec, resumed=old.resumed, judge=None, command_line="", source="", hint="",
    )  # fmt: skip
