"""The read half of the API: studies, trials, curves, promotions and workers as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Request
from numpy.typing import NDArray

from sweeper.full_forecast_read import FullForecasts
from sweeper.observations_read import FitsStore
from sweeper.protocol import API
from sweeper.records import Metric, Promotion, StudySummary, TrialRow, Worker
from sweeper.results import Results, UnknownError
from sweeper.run_records import RunDetail
from sweeper.success import Success

router = APIRouter(prefix=API, tags=["results"])


T = TypeVar("T")


def _once(request: Request, name: str, make: Callable[[Any], T]) -> T:
    """The app's one store of this name, so that caches are shared; made of the app's engine at the first request."""
    state = request.app.state
    if not hasattr(state, name):
        setattr(state, name, make(state.engine))
    made: T = getattr(state, name)
    return made


def shared_results(request: Request) -> Results:
    """Records of the app's database."""
    return _once(request, "results", Results)


def shared_fits(request: Request) -> FitsStore:
    """Fits of its studies."""
    return _once(request, "fits", lambda engine: FitsStore(engine, shared_results(request)))


def shared_forecasts(request: Request) -> FullForecasts:
    """Forecasts of its full runs."""
    return _once(request, "forecasts", lambda engine: FullForecasts(engine, shared_results(request)))


ResultsDep = Annotated[Results, Depends(shared_results)]
FitsDep = Annotated[FitsStore, Depends(shared_fits)]
ForecastsDep = Annotated[FullForecasts, Depends(shared_forecasts)]


@router.get("/studies")
def list_studies(results: ResultsDep) -> list[StudySummary]:
    """All studies, the newest first."""
    return results.studies()


@router.get("/studies/{name}")
def get_study(name: str, results: ResultsDep) -> StudySummary:
    """How a study stands; 404 for an unknown one."""
    try:
        return results.study(name)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error


@router.get("/studies/{name}/trials")
def list_trials(name: str, results: ResultsDep, after: int = -1) -> list[TrialRow]:
    """Trials with a number greater than `after`, ascending, each at its newest attempt."""
    try:
        return results.trials(name, after=after)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error


@router.get("/studies/{name}/trials/{number}")
def get_trial(name: str, number: int, results: ResultsDep) -> dict[str, Any]:
    """One trial with config, every point (columns; null where a point has no such value), messages."""
    try:
        return detail_json(results.run(name, "trial", number))
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error


@router.get("/studies/{name}/curves")
def get_curves(name: str, results: ResultsDep, metric: Metric = "val_bpb") -> dict[str, Any]:
    """One metric of all trials, columnar: trial i owns offsets[i] up to offsets[i + 1]."""
    try:
        curves = results.curves(name, metric)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    return {
        "metric": curves.metric,
        "trials": curves.numbers,
        "states": curves.states,
        "offsets": curves.offsets.tolist(),
        "progress": columns_json(curves.progress),
        "values": columns_json(curves.values),
    }


@router.get("/studies/{name}/promotions")
def list_promotions(name: str, results: ResultsDep) -> tuple[Promotion, ...]:
    """All promotions of a study, ascending."""
    try:
        return results.promotions(name)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error


@router.get("/studies/{name}/promotions/{number}/success")
def get_success(name: str, number: int, results: ResultsDep) -> Success:
    """A started promotion against the criteria of its plan, one row each; no rows where the plan names none."""
    try:
        return results.standing(results.run(name, "promotion", number)).success
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error


@router.get("/studies/{name}/promotions/{number}/forecast")
def get_forecast(name: str, number: int, forecasts: ForecastsDep) -> dict[str, Any]:
    """Whether a started promotion's loss keeps to what is foretold of it, and the newest band (columns)."""
    try:
        found = forecasts.of(name, number)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    fields = ("kind", "state", "since_step", "by", "words", "until")
    band = found.bands[-1] if found.bands else None
    columns = ("tokens_m", "loss_m", "low_m", "high_m")
    shown = None if band is None else {c.removesuffix("_m"): columns_json(getattr(band, c)) for c in columns}
    return {**{field: getattr(found, field) for field in fields}, "band": shown}


@router.get("/workers")
def list_workers(results: ResultsDep) -> list[Worker]:
    """All workers that ever said hello, the latest seen first."""
    return results.workers()


def detail_json(detail: RunDetail) -> dict[str, Any]:
    """A RunDetail as JSON values."""
    values = asdict(detail)
    values["points"] = {name: columns_json(column) for name, column in values["points"].items()}
    return values


def columns_json(column: NDArray[np.floating[Any]], digits: int = 5) -> list[float | None]:
    """Rounded to `digits` decimals, null for NaN (which JSON lacks)."""
    rounded = np.round(column.astype(np.float64), digits)
    return [None if value != value else value for value in rounded.tolist()]
