"""Reads what fits need of a study's runs, and keeps fits for as long as no further run has ended."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, select

from sweeper.observations import bridge
from sweeper.observations_counting import Counting, counting
from sweeper.observations_facts import BudgetScore, RunFacts
from sweeper.observations_fits import Fits, StudyFacts
from sweeper.observations_kept import Kept
from sweeper.observations_names import number_of_confirmation
from sweeper.observations_recipe import counted, recipe
from sweeper.observations_switches import Asked, Switches
from sweeper.origins import Origin, origin
from sweeper.protocol import RunKind
from sweeper.results import Results, UnknownError
from sweeper.summary import axes
from sweeper.tables import OutcomeRow, PromotionRow, RunRow, StudyRow, ThroughputRow
from sweeper.transferred import CONFIRM, Transfer

MOST_KEPT = 12
"""Fits of a study under some switches that are kept; the least recently used go first."""

Mark = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    mark: Mark
    trials: tuple[RunFacts, ...]
    promotions: tuple[RunFacts, ...]
    confirmations: tuple[RunFacts, ...]


class FitsStore:
    """Fits by study and switches. Safe to share between threads.

    Runs that ended are read once; a study's fits are made anew when another run of it has ended.
    """

    def __init__(self, engine: Engine, results: Results) -> None:
        self._engine = engine
        self._results = results
        self._lock = threading.Lock()
        self._facts: dict[int, RunFacts] = {}
        self._read: dict[str, _Read] = {}
        self._kept = Kept()
        self._fits: OrderedDict[tuple[str, Switches], tuple[Mark, Fits]] = OrderedDict()

    def fits(self, name: str, switches: Switches | None = None) -> Fits:
        """The fits of a study, each computed when it is first asked for.

        Args:
            switches: None for those of a reader who asks for nothing.

        Raises:
            UnknownError: there is no such study.
        """
        switches = switches or self.switches(name, Asked())
        with self._lock:
            with self._engine.connect() as connection:
                study = self._study(connection, name)
                mark = _mark(connection, study)
                key = (name, switches)
                known = self._fits.get(key)
                if known is not None and known[0] == mark:
                    self._fits.move_to_end(key)
                    return known[1]
                read, where = self._facts_of(connection, study, mark), origin(connection, study.id)
            made = self._made(name, study.spec, read, switches, where)
            self._fits[key] = (mark, made)
            while len(self._fits) > MOST_KEPT:
                self._fits.popitem(last=False)
        return made

    def switches(self, name: str, asked: Asked) -> Switches:
        """What is asked for, the rest as the study's runs allow it.

        Raises:
            UnknownError: there is no such study, and the default depends on it.
        """
        return Switches(params=asked.params or self.counting(name).default, rate=asked.rate, loss=asked.loss)

    def counting(self, name: str) -> Counting:
        """The conventions in which the study's parameters are known.

        Raises:
            UnknownError: there is no such study.
        """
        with self._lock, self._engine.connect() as connection:
            study = self._study(connection, name)
            if counted(origin(connection, study.id).config) is not None:
                return Counting()  # it is a study of our own configs: no need to read them all
            read = self._facts_of(connection, study, _mark(connection, study))
        return counting(run.recipe for run in read.trials)

    def benched(self, device: str, width: float | None) -> list[tuple[str, float, float, float]]:
        """(device, depth, batch, seconds a step) of every measured shape of this width on devices named so.

        Args:
            device: a part of its name, in any case.
        """
        query = select(ThroughputRow.__table__).where(ThroughputRow.devices == 1)
        with self._engine.connect() as connection:
            rows = [row for row in connection.execute(query) if device.lower() in row.device_name.lower()]
        return [
            (row.device_name, row.num_layers, row.batch_tokens, row.batch_tokens / row.tokens_per_second)
            for row in rows
            if width is None or row.model_dim == width
        ]

    def mark(self, name: str) -> Mark:
        """Equal for as long as no further run of the study has ended, and its file is the same in what fits read of it.

        Raises:
            UnknownError: there is no such study.
        """
        with self._engine.connect() as connection:
            return _mark(connection, self._study(connection, name))

    def _study(self, connection: Connection, name: str) -> Row[Any]:
        row = connection.execute(select(StudyRow.__table__).where(StudyRow.name == name)).one_or_none()
        if row is None:
            known = connection.scalars(select(StudyRow.name).order_by(StudyRow.name)).all()
            raise UnknownError(f"there is no study {name}; known: {', '.join(known) or 'none yet'}")
        return row

    def _facts_of(self, connection: Connection, study: Row[Any], mark: Mark) -> _Read:
        known = self._read.get(study.name)
        if known is not None and known.mark == mark:
            return known
        trials = self._runs(connection, study.id, "trial", {})
        tokens = PromotionRow.plan["tokens"].as_float().label("tokens")  # an integer of PostgreSQL ends at two billion
        columns = (
            PromotionRow.number,
            PromotionRow.trial_number,
            PromotionRow.transfer,
            PromotionRow.candidate,
            tokens,
        )
        rows = connection.execute(select(*columns).where(PromotionRow.study_id == study.id)).all()
        longer = {row.number: round(row.tokens) for row in rows if row.candidate == CONFIRM}
        plans = {row.number: (row.trial_number, row.transfer) for row in rows}
        promotions = self._runs(connection, study.id, "promotion", plans)
        self._read[study.name] = _Read(
            mark=mark,
            trials=trials,
            promotions=tuple(run for run in promotions if run.number not in longer),
            confirmations=tuple(
                replace(run, number=number_of_confirmation(run.number), planned=longer[run.number])
                for run in promotions
                if run.number in longer
            ),
        )
        return self._read[study.name]

    def _runs(
        self, connection: Connection, study_id: int, kind: RunKind, plans: Mapping[int, tuple[int | None, Any]]
    ) -> tuple[RunFacts, ...]:
        """All runs of a kind at their newest attempt; configs are read of those alone that are not known yet."""
        of_study = (RunRow.study_id == study_id, RunRow.kind == kind)
        newest = select(func.max(RunRow.id)).where(*of_study).group_by(RunRow.number)
        ids = list(connection.scalars(newest.order_by(RunRow.number)))
        fresh = [run for run in ids if run not in self._facts]
        columns = (
            *(RunRow.id, RunRow.number, RunRow.state, RunRow.reason, RunRow.progress, RunRow.params, RunRow.config),
            *(RunRow.parameters, RunRow.tokens, RunRow.step, RunRow.seconds, RunRow.device_name),
            *(RunRow.score, RunRow.score_stderr, RunRow.val_bpb),
        )
        found: dict[int, RunFacts] = {}
        for few in (fresh[start : start + 900] for start in range(0, len(fresh), 900)):
            outcomes = _outcomes(connection, few)
            for row in connection.execute(select(*columns).where(RunRow.id.in_(few))):
                found[row.id] = _facts(row, outcomes.get(row.id, ()), *plans.get(row.number, (None, None)))
        self._facts.update({run: facts for run, facts in found.items() if facts.state != "running"})
        everything = [found.get(run) or self._facts[run] for run in ids]
        return tuple(sorted(everything, key=lambda facts: facts.number))

    def _made(self, name: str, spec: dict[str, Any], read: _Read, switches: Switches, made: Origin) -> Fits:
        judge, unit = spec.get("judge") or "final", made.unit
        return Fits(
            trials=bridge((*read.trials, *read.confirmations), switches, judge, unit),
            promotions=bridge(read.promotions, switches, judge, unit),
            study=StudyFacts(
                name=name,
                switches=switches,
                judge=judge,
                timed=(spec.get("budget") or {}).get("seconds") is not None and made.timed,
                rungs=tuple((spec.get("budget") or {}).get("rungs") or ()),
                searched=tuple(axis.path for axis in axes(spec)),
                seq_len=max((run.recipe.seq_len for run in read.trials), default=1),
                trials=read.trials,
                promotions=read.promotions,
                unit=unit,
                foreign=made.foreign,
                full_run=_full_run(spec),
            ),
            curves=lambda: self._results.curves(name),
            kept=self._kept,
        )


def _full_run(spec: dict[str, Any]) -> tuple[str, ...]:
    phases = (spec.get("plan") or {}).get("phases") or ()
    return tuple(phase["tokens"] for phase in phases) or ((spec.get("promote") or {}).get("tokens") or "20x",)


def _mark(connection: Connection, study: Row[Any]) -> Mark:
    row = connection.execute(
        select(func.count(), func.max(RunRow.id), func.sum(RunRow.ended_at)).where(
            RunRow.study_id == study.id, RunRow.state != "running"
        )
    ).one()
    read = json.dumps([study.created_at, *(study.spec.get(part) for part in ("judge", "budget", "promote", "plan"))])
    return (*(value or 0 for value in row), read)


def _outcomes(connection: Connection, runs: list[int]) -> dict[int, tuple[BudgetScore, ...]]:
    columns = (OutcomeRow.run_id, OutcomeRow.tokens, OutcomeRow.step, OutcomeRow.seconds, OutcomeRow.val_bpb)
    query = select(*columns, OutcomeRow.val_bpb_stderr, OutcomeRow.budget).where(OutcomeRow.run_id.in_(runs))
    found: dict[int, tuple[BudgetScore, ...]] = {}
    for row in connection.execute(query.order_by(OutcomeRow.run_id, OutcomeRow.tokens)):
        score = BudgetScore(
            tokens=row.tokens,
            step=row.step,
            seconds=row.seconds,
            val_bpb=row.val_bpb,
            stderr=row.val_bpb_stderr,
            budget=row.budget,
        )
        found[row.run_id] = (*found.get(row.run_id, ()), score)
    return found


def _facts(row: Row[Any], outcomes: tuple[BudgetScore, ...], trial: int | None, transfer: Any) -> RunFacts:
    return RunFacts(
        number=row.number,
        trial=trial,
        state=row.state,
        reason=row.reason,
        progress=row.progress,
        recipe=recipe(row.params, row.config, row.parameters),
        tokens=row.tokens,
        step=row.step,
        seconds=row.seconds,
        device_name=row.device_name,
        score=row.score,
        score_stderr=row.score_stderr,
        streamed=row.val_bpb,
        outcomes=outcomes,
        transfer=None if transfer is None else Transfer.model_validate(transfer),
    )
