"""Reads what foretelling a full run needs: its curve, and earlier runs of the same model, batch and data."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from sweeper.curves import read_points
from sweeper.full_bands import Course
from sweeper.full_forecast import FullForecast, full_forecast, no_forecast
from sweeper.observations_kept import Kept
from sweeper.phase_plan import phases_of
from sweeper.results import Results
from sweeper.run_records import RunDetail, RunPoints
from sweeper.run_scores import outcomes
from sweeper.tables import PromotionRow, RunRow, StudyRow

MOST_PEERS = 6
"""The nearest in peak rate: measured, four to eight say the same."""
LIKE_RATES = 3.0
"""Times the run's peak rate, either way, within which runs say something of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Earlier:
    """What decides whether a run is a peer."""

    run: int
    name: str
    ended_at: float
    tokens: int
    like: tuple[str, str, str]
    rate: float | None
    config: Mapping[str, Any]


class FullForecasts:
    """Forecasts of full runs, each band made once. Safe to share between threads."""

    def __init__(self, engine: Engine, results: Results) -> None:
        self._engine = engine
        self._results = results
        self._kept = Kept()
        self._lock = threading.Lock()
        self._known: dict[int, _Earlier] = {}
        self._courses: dict[int, Course] = {}

    def of(self, study: str, number: int) -> FullForecast:
        """The forecast of a promotion that has started.

        Raises:
            UnknownError: no such study, or no started promotion of that number.
        """
        return self.of_run(self._results.run(study, "promotion", number))

    def of_run(self, run: RunDetail) -> FullForecast:
        """The same for a run that has been read."""
        with self._lock, self._engine.connect() as connection:
            study = connection.scalar(select(StudyRow.id).where(StudyRow.name == run.study))
            plan = connection.scalar(
                select(PromotionRow.plan).where(PromotionRow.study_id == study, PromotionRow.number == run.number)
            )
            tokens = _tokens(run, plan or {})
            if study is None or tokens is None:
                return no_forecast("how many tokens the run trains is not known")
            began = min((attempt.created_at for attempt in run.attempts), default=run.row.created_at)
            own = _like(run.config)
            earlier = [
                one for one in self._earlier(connection, study) if one.ended_at <= began and one.run != run.row.run
            ]
            peers = _nearest([one for one in earlier if one.like == own], _rate(run.config))
            courses = [self._course(connection, one) for one in peers]
        course = Course(
            name=f"promotion {run.number}",
            config=run.config,
            points=_placed(run.points, tokens),
            tokens=tokens,
            outcomes=run.outcomes,
        )
        return full_forecast(course, courses, _left_out(earlier, own, len(courses)), self._kept.get)

    def _earlier(self, connection: Connection, study: int) -> list[_Earlier]:
        """All complete runs of a study at their newest attempt; configs are read of new ones alone."""
        newest = select(func.max(RunRow.id)).where(RunRow.study_id == study).group_by(RunRow.kind, RunRow.number)
        complete = (RunRow.id.in_(newest), RunRow.state == "complete", RunRow.ended_at.is_not(None))
        ids = list(connection.scalars(select(RunRow.id).where(*complete).order_by(RunRow.id)))
        fresh = [run for run in ids if run not in self._known]
        columns = (RunRow.id, RunRow.kind, RunRow.number, RunRow.ended_at, RunRow.tokens, RunRow.config)
        for few in (fresh[start : start + 900] for start in range(0, len(fresh), 900)):
            for row in connection.execute(select(*columns).where(RunRow.id.in_(few))):
                self._known[row.id] = _Earlier(
                    run=row.id,
                    name=f"{row.kind} {row.number}",
                    ended_at=row.ended_at,
                    tokens=row.tokens,
                    like=_like(row.config),
                    rate=_rate(row.config),
                    config={part: row.config.get(part) for part in ("schedule", "data", "plan")},
                )
        return [self._known[run] for run in ids]

    def _course(self, connection: Connection, one: _Earlier) -> Course:
        if one.run not in self._courses:
            self._courses[one.run] = Course(
                name=one.name,
                config=one.config,
                points=_placed(read_points(connection, one.run), float(one.tokens)),
                tokens=float(one.tokens),
                outcomes=outcomes(connection, [one.run]),
            )
        return self._courses[one.run]


def _tokens(run: RunDetail, plan: Mapping[str, Any]) -> float | None:
    """That the whole run trains."""
    phases = phases_of(run.config, 0, "waiting")
    if phases:
        return float(phases[-1].end)
    planned = (run.config.get("budget") or {}).get("tokens") or plan.get("tokens")
    trained = run.row.tokens if run.row.state == "complete" else 0
    return float(planned or trained) or None


def _placed(points: RunPoints, tokens: float) -> RunPoints:
    """With tokens by progress; two points of a kind that share a place are left as they are."""
    return replace(points, tokens=points.progress * tokens)


def _like(config: Mapping[str, Any]) -> tuple[str, str, str]:
    """Batch, data and model with its optimiser, each as text: equal for runs of one law."""
    data, optim = config.get("data") or {}, config.get("optim") or {}
    model = [config.get("model"), optim.get("matrix_optimizer"), data.get("seq_len"), config.get("command")]
    if (config.get("model") or {}).get("family") == "helix":
        model += [config.get("helix"), (config.get("seeds") or {}).get("topology")]
    first: Mapping[str, Any] = next(iter((config.get("plan") or {}).get("phases") or ()), {})
    kind = [first.get(name) or data.get(name) for name in ("data", "split", "windows")]
    kind[0] = kind[0] or data.get("path")
    return json.dumps(data.get("batch_tokens")), json.dumps(kind), json.dumps(model, sort_keys=True, default=str)


def _rate(config: Mapping[str, Any]) -> float | None:
    rate = (config.get("optim") or {}).get("matrix_lr")
    return float(rate) if isinstance(rate, (int, float)) and rate > 0 else None


def _nearest(runs: Sequence[_Earlier], rate: float | None) -> list[_Earlier]:
    """The nearest in rate, all of them where rates are not known."""
    far = {one.run: abs(math.log(one.rate / rate)) if one.rate and rate else 0.0 for one in runs}
    near = [one for one in runs if far[one.run] <= math.log(LIKE_RATES)]
    return sorted(near, key=lambda one: (far[one.run], -one.tokens, one.run))[:MOST_PEERS]


def _left_out(earlier: Iterable[_Earlier], own: tuple[str, str, str], taken: int) -> str:
    """Why earlier runs are no peers, in words; empty where enough are or there is none."""
    names = ("another batch", "other data", "another model")
    whys = Counter(
        next((name for name, a, b in zip(names, one.like, own, strict=True) if a != b), "a rate far from its own")
        for one in earlier
        if one.like != own or not taken
    )
    return ", ".join(f"{count} with {why}" for why, count in whys.items())
