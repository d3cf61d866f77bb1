"""Another Optuna study, in this database or any other, as a table of runs with curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from sweeper.errors import SweeperError
from sweeper.importing.runs import Skipped
from sweeper.importing.tables import Cells, Table


def read(url: str, name: str | None) -> Table:
    """The trials of the study, columns named as Optuna's `trials_dataframe` names them.

    Intermediate values become curves: their steps are taken for steps, whatever the study counted.

    Args:
        name: None for the only study that the storage has.

    Raises:
        SweeperError: no such storage or study, one of several objectives, or one that maximises.
    """
    storage = _open(url)
    try:
        study = optuna.load_study(study_name=_choose(storage, url, name), storage=storage)
        if study.directions != [StudyDirection.MINIMIZE]:
            words = ", ".join(direction.name.lower() for direction in study.directions)
            raise SweeperError(f"Optuna study {study.study_name!r} has the objectives: {words}; only one that is "
                               "minimised, as val_bpb is, can be imported")  # fmt: skip
        trials = study.get_trials(deepcopy=False)
    except (SQLAlchemyError, StorageInternalError) as error:
        raise SweeperError(f"cannot read Optuna's tables in {_shown(url)}: {type(error).__name__}") from error
    finally:
        storage.remove_session()
        storage.engine.dispose()
    return _table(f"{_shown(url)} study {study.study_name}", trials)


def _shown(url: str) -> str:
    return make_url(url).render_as_string()


def _open(url: str) -> optuna.storages.RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SweeperError(f"an Optuna storage is a database URL such as sqlite:///study.db, got {url!r}") from error
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise SweeperError(f"there is no database {parsed.database!r}")
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        text = parsed.render_as_string(hide_password=False)
        return optuna.storages.RDBStorage(text, skip_table_creation=True, skip_compatibility_check=True)
    except (ImportError, SQLAlchemyError, ValueError) as error:
        raise SweeperError(f"cannot open {parsed.render_as_string()}: {error}") from error


def _choose(storage: optuna.storages.RDBStorage, url: str, name: str | None) -> str:
    names = optuna.get_all_study_names(storage)
    if name is None and len(names) == 1:
        return names[0]
    if name in names:
        return str(name)
    known = ", ".join(names) or "none"
    said = f"no study {name!r}" if name is not None else f"{len(names)} studies: name one with --optuna-study"
    raise SweeperError(f"{_shown(url)} has {said}; it has: {known}")


def _table(source: str, trials: list[FrozenTrial]) -> Table:
    rows: list[tuple[str, Cells]] = []
    broken: list[Skipped] = []
    curves: dict[int, list[tuple[int, float]]] = {}
    for trial in trials:
        where = f"{source} trial {trial.number}"
        if not trial.state.is_finished() or (trial.state is TrialState.FAIL and not _has_loss(trial)):
            broken.append(Skipped(source=where, reason="it did not finish", detail=_unfinished(trial)))
            continue
        curves[len(rows)] = sorted(trial.intermediate_values.items())
        rows.append((where, _cells(trial)))
    columns = list(dict.fromkeys(column for _, cells in rows for column in cells))
    return Table(source=source, columns=columns, rows=rows, broken=broken, curves=curves)


def _has_loss(trial: FrozenTrial) -> bool:
    """Whether a failed trial says by a number that it diverged."""
    told = (*trial.intermediate_values.values(), *trial.user_attrs.values())
    return any(isinstance(value, float) and not math.isfinite(value) for value in told)


def _unfinished(trial: FrozenTrial) -> str:
    said = f"its state is {trial.state.name}"
    if trial.state is TrialState.FAIL:
        said += "; Optuna says so of an objective that is NaN, too, and keeps nothing to tell them apart"
    return said


def _cells(trial: FrozenTrial) -> dict[str, Any]:
    cells: dict[str, Any] = {"number": trial.number, "state": trial.state.name}
    cells["value"] = trial.value if trial.state is TrialState.COMPLETE else None
    if trial.datetime_start is not None:
        cells["datetime_start"] = trial.datetime_start.astimezone().isoformat()
    if trial.duration is not None:
        cells["duration"] = trial.duration.total_seconds()
    cells |= {f"params_{name}": value for name, value in trial.params.items()}
    return cells | {f"user_attrs_{name}": value for name, value in trial.user_attrs.items() if _plain(value)}


def _plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))
