"""The read model: studies, trials, curves and promotions as plain records, in a few queries each.

Nothing here writes. A trial's rows change only while its state is `running`, which is what keeps the
live page cheap: see `changed_trials` and `curves.CurveStore`.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, Row, case, func, or_, select

from sweeper import attempts, notes, run_scores, summary
from sweeper.curves import CurveStore, read_merged
from sweeper.errors import SweeperError
from sweeper.promotion_records import Standing
from sweeper.protocol import RunKind
from sweeper.records import Activity, Curves, Importances, Metric, Promotion, StudySummary, TrialRow, Worker
from sweeper.run_records import Message, Note, RunDetail, RunPoints
from sweeper.standing import Final, standing
from sweeper.tables import EventRow, MessageRow, PromotionRow, RunRow, StudyRow, WorkerRow

Version = tuple[Any, ...]
"""Equal for as long as nothing about a study changed; comparable for equality only."""


class UnknownError(SweeperError):
    """No such study, trial or promotion."""


class Results:
    """Reads one installation's database. Safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._curves = CurveStore()
        self._importances: dict[str, tuple[int, Importances]] = {}

    def studies(self) -> list[StudySummary]:
        """All studies, the newest first."""
        with self._engine.connect() as connection:
            names = connection.scalars(select(StudyRow.name).order_by(StudyRow.created_at.desc())).all()
        return [self.study(name) for name in names]

    def study(self, name: str) -> StudySummary:
        """How the study stands.

        Raises:
            UnknownError: there is no such study.
        """
        with self._engine.connect() as connection:
            return summary.read(connection, _study(connection, name), time.time())

    def version(self, name: str) -> Version:
        """A cheap mark that differs whenever a row of the study has changed."""
        with self._engine.connect() as connection:
            study = _study(connection, name)
            runs = connection.execute(
                select(
                    func.count(),
                    func.sum(RunRow.last_seq),
                    func.sum(RunRow.step),
                    func.sum(case((RunRow.state == "running", 1), else_=0)),
                    func.sum(case((RunRow.stop_requested != "", 1), else_=0)),
                ).where(RunRow.study_id == study.id)
            ).one()
            promotions = connection.execute(
                select(PromotionRow.state, func.count())
                .where(PromotionRow.study_id == study.id)
                .group_by(PromotionRow.state)
                .order_by(PromotionRow.state)
            ).all()
            events = connection.scalar(select(func.max(EventRow.id)).where(EventRow.study_id == study.id))
        flat = [value for row in promotions for value in row]
        return (study.state, study.spec.get("trials"), *(int(v or 0) for v in runs), *flat, events or 0)

    def trials(self, name: str, *, after: int = -1) -> list[TrialRow]:
        """Trials with a number greater than `after`, ascending, each at its newest attempt."""
        with self._engine.connect() as connection:
            query = attempts.newest(_study(connection, name).id, "trial").where(RunRow.number > after)
            return [attempts.record(row) for row in connection.execute(query)]

    def changed_trials(self, name: str, *, after_run: int, runs: Collection[int]) -> list[TrialRow]:
        """Trials whose run id is above `after_run` or in `runs`: given those that were running at the last
        look, everything that can have changed since."""
        with self._engine.connect() as connection:
            query = attempts.newest(_study(connection, name).id, "trial")
            query = query.where(or_(RunRow.id > after_run, RunRow.id.in_(runs)))
            return [attempts.record(row) for row in connection.execute(query)]

    def curves(self, name: str, metric: Metric = "val_bpb") -> Curves:
        """One metric of all trials over the share of the budget, at most 100 points a trial."""
        with self._engine.connect() as connection:
            newest = attempts.newest(_study(connection, name).id, "trial").subquery()
            query = select(newest.c.id, newest.c.number, newest.c.state).order_by(newest.c.number)
            runs = [(row.id, row.number, row.state) for row in connection.execute(query)]
            return self._curves.curves(connection, metric, runs)

    def run(self, name: str, kind: RunKind, number: int) -> RunDetail:
        """Everything about one trial or promotion.

        Raises:
            UnknownError: no such study, or no run of that number (a promotion that still waits has none).
        """
        with self._engine.connect() as connection:
            study = _study(connection, name)
            made = connection.execute(attempts.of(study.id, kind, number)).all()
            if not made:
                known = "no trial" if kind == "trial" else "no started promotion"
                raise UnknownError(f"study {name} has {known} number {number}; see the study's page for what it has")
            newest = made[-1]
            row = connection.execute(attempts.newest(study.id, kind).where(RunRow.id == newest.id)).one()
            said = connection.execute(
                select(MessageRow.run_id, MessageRow.at, MessageRow.kind, MessageRow.body)
                .where(MessageRow.run_id.in_([run.id for run in made]))
                .order_by(MessageRow.run_id, MessageRow.seq)
            ).all()
            points = read_merged(connection, made)
            return RunDetail(
                study=name,
                kind=kind,
                number=number,
                row=attempts.record(row),
                config=newest.config,
                points=points,
                streamed_val_bpb_stderr=_latest_stderr(points),
                scores=run_scores.scores(connection, newest, study.spec.get("judge") or "final"),
                outcomes=run_scores.outcomes(connection, [run.id for run in made]),
                artifact=run_scores.artifact(connection, newest.id),
                messages=tuple(Message(at=m.at, kind=m.kind, body=m.body) for m in said),
                attempts=attempts.kin(connection, study.id, kind, made),
                versions=newest.versions or {},
                git_commit=newest.git_commit,
                parameters=newest.parameters,
                peak_memory_bytes=newest.peak_memory_bytes,
                resumed_step=newest.resumed_step,
                step=newest.step,
                notes=notes.read(connection, study.id, number) if kind == "trial" else (),
                **_of_start(said, newest.id),
            )

    def standing(self, run: RunDetail) -> Standing:
        """How a promotion stands against its plan, at this moment.

        Args:
            run: as `run` gives a promotion.
        """
        with self._engine.connect() as connection:
            row = connection.execute(
                select(PromotionRow.plan, PromotionRow.state, PromotionRow.transfer)
                .join(StudyRow, StudyRow.id == PromotionRow.study_id)
                .where(StudyRow.name == run.study, PromotionRow.number == run.number)
            ).one_or_none()
            val_loss = run_scores.final_loss(connection, run.row.run)
        plan, state, transfer = (row.plan, row.state, row.transfer) if row else ({}, run.row.state, None)
        final = None if val_loss is None else Final(val_loss=val_loss)
        return standing(run, plan, state, final, time.time(), transfer)

    def promotions(self, name: str) -> tuple[Promotion, ...]:
        """All promotions of the study, ascending."""
        with self._engine.connect() as connection:
            return summary.promotions(connection, _study(connection, name).id)

    def promotion_curves(self, name: str) -> dict[int, RunPoints]:
        """For each promotion that has started, its curve merged over attempts."""
        with self._engine.connect() as connection:
            study = _study(connection, name)
            made = connection.execute(attempts.of(study.id, "promotion")).all()
            numbers = sorted({run.number for run in made})
            return {n: read_merged(connection, [run for run in made if run.number == n]) for n in numbers}

    def importances(self, name: str) -> Importances:
        """Parameter importances, computed anew only when another trial has finished."""
        from sweeper import importance, space, study  # they bring Optuna: not for every reader

        trials = self.trials(name)
        finished = sum(t.state in ("complete", "pruned", "diverged") for t in trials)
        known = self._importances.get(name)
        if known is None or known[0] != finished:
            with self._engine.connect() as connection:
                spec = study.StudySpec.model_validate(_study(connection, name).spec)
            known = (finished, importance.importances(trials, space.distributions(spec.space)))
            self._importances[name] = known
        return known[1]

    def activity(self, name: str, *, limit: int = 30, without: Collection[str] = ()) -> list[Activity]:
        """The newest lines of the study's audit trail, newest first, some verbs left out."""
        with self._engine.connect() as connection:
            query = select(EventRow).where(EventRow.study_id == _study(connection, name).id)
            query = query.where(EventRow.verb.not_in(without))
            rows = connection.execute(
                query.with_only_columns(EventRow.at, EventRow.actor, EventRow.verb, EventRow.detail)
                .order_by(EventRow.id.desc())
                .limit(limit)
            ).all()
        return [Activity(at=r.at, actor=r.actor, verb=r.verb, detail=r.detail or {}) for r in rows]

    def notes(self, name: str) -> tuple[Note, ...]:
        """Notes on the study and its trials, the newest first."""
        with self._engine.connect() as connection:
            return notes.read(connection, _study(connection, name).id)

    def workers(self) -> list[Worker]:
        """All workers that ever said hello, the latest seen first."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(WorkerRow.__table__).order_by(WorkerRow.last_seen.desc())).all()
        return [Worker(**row._mapping) for row in rows]


def _study(connection: Connection, name: str) -> Row[Any]:
    row = connection.execute(select(StudyRow.__table__).where(StudyRow.name == name)).one_or_none()
    if row is None:
        known = connection.scalars(select(StudyRow.name).order_by(StudyRow.name)).all()
        raise UnknownError(f"there is no study {name}; known: {', '.join(known) or 'none yet'}")
    return row


def _of_start(said: Collection[Row[Any]], run: int) -> dict[str, Any]:
    """What the Start of this run says beside the columns of its row."""
    start: dict[str, Any] = next(
        (message.body for message in said if message.run_id == run and message.kind == "start"), {}
    )
    unsaid = {"compiled_graphs": None, "graph_breaks": None, "devices": 1}
    return {name: start.get(name, instead) for name, instead in unsaid.items()}


def _latest_stderr(points: RunPoints) -> float | None:
    validated = points.val_bpb_stderr[np.isfinite(points.val_bpb)]
    return float(validated[-1]) if len(validated) and np.isfinite(validated[-1]) else None
