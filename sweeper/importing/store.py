"""Imported runs into the database, a batch a transaction.

The service owns the database, and this writes beside it; it may, as it writes to nothing that the service or a
worker touches.  A study that it made is `stopped`: no worker leases from it, nothing is drawn for it, and its trials
are finished from the first moment on, so that there is nothing to settle, to expire or to repeat.  It takes the
study's turn, as the service does, one batch long.

Each batch goes to Optuna first, then into our tables in one transaction.  Killed between the two, the trials are
there and have no runs; the next import finds them by the identity in their attributes, and gives them theirs.
Wider axes come before all batches, in one transaction with the study's row; see `recode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, create_trial
from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from sweeper import space, storage
from sweeper.errors import SweeperError
from sweeper.importing import speeds, trials
from sweeper.importing.recode import foreign_to, recode
from sweeper.importing.runs import Row, Run
from sweeper.service import Conflict, Service, spec_of
from sweeper.study import StudySpec
from sweeper.tables import (
    Base,
    EventRow,
    ExportRow,
    MessageRow,
    OutcomeRow,
    PointRow,
    RunRow,
    ScoreRow,
    StudyRow,
)

BATCH_RUNS = 50
"""A quarter of a second under the study's turn."""
ACTOR = "import"
IDENTITY = "imported"
"""Key of a run's identity, in its `versions` and in its trial's attributes."""


CONTENT = "content"
"""In the `versions` of a run that was read from a file of its own: SHA-256 of its bytes."""
ORIGIN = "import"
"""Section of the config of a run that did not bring a whole one.  Beside its values are known: its name, its source,
`score_unit` as Run has it, `parameters_count` where it says its parameters, `devices` where there were several."""
SOURCE = "source"
"""In its `versions`, too: where it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The study as it is."""

    spec: StudySpec | None = None
    """None where there is none of that name."""
    identities: frozenset[str] = frozenset()
    """Of its runs, digests of their files among them."""
    resumed: bool = False
    """Whether it has drawn trials of its own."""
    score_unit: str | None = None
    """Of its runs' scores; None where it has no runs, or an earlier version stored them and did not say."""


def known(service: Service, name: str) -> Known:
    """
    Raises:
        Conflict: a study of that name was not imported, or is not stopped.
    """
    with service.read() as session:
        row = session.scalar(select(StudyRow).where(StudyRow.name == name))
        if row is None:
            return Known()
        created = (EventRow.study_id == row.id, EventRow.verb == "created", EventRow.actor == ACTOR)
        if session.scalar(select(EventRow.id).where(*created).limit(1)) is None:
            raise Conflict(f"study {name} is one of sweeper's own runs; import into a study of another name")
        if row.state != "stopped":
            raise Conflict(f"study {name} is {row.state}: `sweeper stop {name}` first, then import")
        spec, identities = spec_of(row), _identities(session, row.id)
        config = session.scalar(select(RunRow.config).where(RunRow.study_id == row.id).order_by(RunRow.id).limit(1))
        unit = (config or {}).get(ORIGIN, {}).get("score_unit")
        resumed = foreign_to(session, name, IDENTITY)
        return Known(spec=spec, identities=identities, resumed=resumed, score_unit=unit)


def _identities(session: Session, study_id: int) -> frozenset[str]:
    found = session.scalars(select(RunRow.versions).where(RunRow.study_id == study_id))
    return frozenset(versions[key] for versions in found for key in (IDENTITY, CONTENT) if key in versions)


# In Optuna's own tables: asked for the number, Optuna reads every trial.
_COUNT = text(
    "SELECT count(*) FROM trials JOIN studies ON studies.study_id = trials.study_id WHERE studies.study_name = :name"
)


class Store:
    """One imported study, open for more runs."""

    def __init__(self, service: Service, old: Known, spec: StudySpec, expected: int) -> None:
        """Create the study, or bring the one of this name and its trials up to `spec`.

        Args:
            old: what `spec` was made of.
            expected: runs that are about to be added.

        Raises:
            Conflict: the study is no longer as it was then.
            SweeperError: Optuna has a study of that name which sweeper did not make.
        """
        self._service = service
        self._spec = spec
        self._distributions = space.distributions(spec.space)
        with service.read() as session:
            self._measured = speeds.measured(session)
        self._id = self._prepare(old, expected)
        self._rdb = storage.optuna_tables(service.engine)
        self._study = optuna.load_study(study_name=spec.name, storage=self._rdb)
        self._orphans = self._find_orphans()

    def close(self) -> None:
        """Close Optuna's connections."""
        self._rdb.remove_session()
        self._rdb.engine.dispose()

    def _prepare(self, old: Known, expected: int) -> int:
        service, spec = self._service, self._spec
        with service.read() as session:
            there = session.scalar(select(StudyRow.id).where(StudyRow.name == spec.name)) is not None
        if not there:
            service.create_search(spec.name)
        with service.write() as session:
            row = session.scalar(select(StudyRow).where(StudyRow.name == spec.name).with_for_update())
            self._check_same(row, old.spec)
            verb = "created" if row is None else "extended"
            if row is None:
                row = StudyRow(name=spec.name, state="stopped", created_at=service.now(), spec={}, fingerprint="")
                session.add(row)
                session.flush()
            there_are = session.scalar(select(func.count()).where(RunRow.study_id == row.id)) or 0
            self._spec = spec = spec.model_copy(update={"trials": max(1, there_are + expected)})
            row.spec, row.fingerprint = spec.model_dump(mode="json"), spec.fingerprint()
            detail: dict[str, Any] = {"runs": expected, "description": spec.description}
            if old.spec is not None:
                self._check_foreign(session, old)
                before = space.distributions(old.spec.space)
                detail["recoded"] = recode(session, spec.name, before, self._distributions)
            service.audit(session, row.id, ACTOR, verb, **detail)
            return row.id

    def _check_same(self, row: StudyRow | None, spec: StudySpec | None) -> None:
        """Raises Conflict where the study is not, or no longer, stopped and as `spec` has it."""
        there = spec_of(row).fingerprint() if row else None
        if there != (spec.fingerprint() if spec else None) or (row is not None and row.state != "stopped"):
            raise Conflict(f"study {self._spec.name} was changed while the runs were read: import again")

    def _check_foreign(self, session: Session, old: Known) -> None:
        if foreign_to(session, self._spec.name, IDENTITY) != old.resumed:
            raise Conflict(f"study {self._spec.name} drew trials while the runs were read: import again")

    def _find_orphans(self) -> dict[str, int]:
        """Numbers of trials without a run, by identity: what an import that was killed left."""
        with self._service.read() as session:
            mine = set(session.scalars(select(RunRow.number).where(RunRow.study_id == self._id)))
        if self._trials() == len(mine):
            return {}
        lone = [trial for trial in self._study.get_trials(deepcopy=False) if trial.number not in mine]
        return {trial.user_attrs[IDENTITY]: trial.number for trial in lone if IDENTITY in trial.user_attrs}

    def add(self, runs: Sequence[Run]) -> list[Run]:
        """Store a batch; those of it that were new, as another import may have been at it."""
        with self._service.turn(self._id):
            with self._service.read() as session:
                self._check_same(session.get(StudyRow, self._id), self._spec)
                here = _identities(session, self._id)
            fresh = [run for run in runs if run.identity not in here]
            numbers = self._tell(fresh)
            with self._service.write() as session:
                speeds.keep(session, fresh, self._insert(session, fresh, numbers), self._measured)
        return fresh

    def _tell(self, runs: Sequence[Run]) -> list[int]:
        """The runs' trial numbers in Optuna, which is told of those that it does not have."""
        new = [run for run in runs if run.identity not in self._orphans]
        first = self._trials()
        self._study.add_trials([self._trial(run) for run in new])
        if self._trials() != first + len(new):
            raise SweeperError(f"something else adds trials to the study {self._spec.name}; import again when it ended")
        told = {run.identity: first + place for place, run in enumerate(new)} | self._orphans
        return [told[run.identity] for run in runs]

    def _trials(self) -> int:
        with self._service.read() as session:
            return session.scalar(_COUNT, {"name": self._spec.name}) or 0

    def _trial(self, run: Run) -> FrozenTrial:
        rungs = trials.rungs(self._spec, run)
        return create_trial(
            state=trials.state(run),
            value=trials.value(self._spec, run, rungs),
            params=self._params(run),
            distributions=self._distributions,
            user_attrs={IDENTITY: run.identity},
            intermediate_values=rungs,
            constraints=trials.excess(self._spec, run),
        )

    def _params(self, run: Run) -> dict[str, Any]:
        return {path: axis.accept(run.values[path]) for path, axis in self._spec.space.items()}

    def _insert(self, session: Session, runs: Sequence[Run], numbers: Sequence[int]) -> list[RunRow]:
        rows = [self._row(run, number) for run, number in zip(runs, numbers, strict=True)]
        session.add_all(rows)
        session.flush()
        ids = [row.id for row in rows]
        for table, part in PARTS:
            found: list[Row] = [
                {"run_id": id_} | row for id_, run in zip(ids, runs, strict=True) for row in getattr(run, part)
            ]
            if found:
                session.execute(insert(table.__table__), found)  # type: ignore[arg-type]  # a Table, not any FromClause
        return rows

    def _row(self, run: Run, number: int) -> RunRow:
        now = self._service.now()
        started = now if run.started_at is None else run.started_at
        known: dict[str, Any] = {
            "created_at": started,
            "started_at": started,
            "ended_at": started + max(run.wall_seconds, run.seconds),
            "device_name": run.device_name,
            "parameters": run.parameters,
            "step": run.step,
            "tokens": run.tokens,
            "seconds": run.seconds,
            "wall_seconds": max(run.wall_seconds, run.seconds),
            "progress": run.progress,
            "train_loss": run.train_loss,
            "val_bpb": run.val_bpb,
            "score": run.judged[self._spec.judge] if run.state == "complete" else None,
            "peak_memory_bytes": run.peak_memory_bytes,
        } | run.row
        return RunRow(
            study_id=self._id,
            kind="trial",
            number=number,
            params=self._params(run),
            config=_config(run) if run.config is None else run.config,
            state=run.state,
            reason=run.reason,
            last_seq=run.last_seq,
            versions=known.pop("versions", {}) | _origin(run),
            **known,
        )


PARTS: tuple[tuple[type[Base], str], ...] = (
    (PointRow, "points"),
    (MessageRow, "messages"),
    (OutcomeRow, "outcomes"),
    (ScoreRow, "scores"),
    (ExportRow, "exports"),
)


def _origin(run: Run) -> dict[str, str]:
    return {IDENTITY: run.identity, SOURCE: run.source} | ({CONTENT: run.content} if run.content else {})


def _config(run: Run) -> dict[str, Any]:
    """What is known of the run's config, as nested values; nothing is filled in."""
    origin: dict[str, Any] = {"name": run.name, "source": run.source, "score_unit": run.score_unit}
    if run.parameters:
        origin["parameters_count"] = run.parameters_count
    if run.devices > 1:
        origin["devices"] = run.devices
    nested: dict[str, Any] = {ORIGIN: origin}
    for path, value in run.values.items():
        part, _, key = path.partition(".")
        nested.setdefault(part, {})[key] = value
    return nested
