"""The pages: all studies, one study, one trial or promotion; and the scripts that they load."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from starlette.concurrency import run_in_threadpool

from dashboard import assets
from dashboard.figures_space import short_names
from dashboard.live import StudyState
from dashboard.routes.shared import FeedDep, templates
from sweeper.api_results import ForecastsDep, ResultsDep
from sweeper.full_forecast_read import FullForecasts
from sweeper.protocol import RunKind
from sweeper.records import TrialRow
from sweeper.results import Results, UnknownError

router = APIRouter(include_in_schema=False)

COLUMNS = (
    *("number", "state", "score", "artifact_bytes", "streamed_val_bpb", "progress", "tokens", "seconds"),
    *(
        "tokens_per_second",
        "infeasible",
        "attempt",
        "started_at",
        "ended_at",
        "reason",
        "device_name",
        "stop_requested",
    ),
)
"""Of the trial table, before one column for each searched value."""


def page(template: str, **values: Any) -> HTMLResponse:
    """A page that no cache may keep: it holds live state."""
    html = templates.get_template(template).render(**values)
    return HTMLResponse(html, headers={"Cache-Control": "no-store"})


@router.get("/")
def index(results: ResultsDep) -> HTMLResponse:
    """All studies."""
    return page("index.html", studies=results.studies())


@router.get("/studies/{name}")
async def study(name: str, feed: FeedDep, results: ResultsDep) -> HTMLResponse:
    """One study."""
    state = await feed.state()
    names, notes = short_names(state.summary.axes), results.notes(name)
    return page("study.html", study=state.summary, fragments=state.fragments, names=names, notes=notes)


@router.get("/studies/{name}/table")
async def table(name: str, feed: FeedDep) -> dict[str, Any]:
    """All trials as rows of values, and the cursor from which the stream goes on."""
    state = await feed.state()
    paths = [axis.path for axis in state.summary.axes]
    rows = [table_row(trial, paths) for _, trial in sorted(state.trials.items())]
    return {"cursor": feed.cursor, "columns": [*COLUMNS, *paths], "rows": rows}


def table_row(trial: TrialRow, paths: list[str]) -> list[Any]:
    """The table's values of one trial, rounded for the wire."""
    fixed = [getattr(trial, name) for name in COLUMNS]
    searched = [trial.params.get(path) for path in paths]
    return [round(v, 5) if isinstance(v, float) and v > 0.1 else v for v in fixed + searched]


@router.get("/studies/{name}/trials/{number}")
async def trial(name: str, number: int, feed: FeedDep, results: ResultsDep) -> HTMLResponse:
    """One trial."""
    return run_page(results, await feed.state(), feed.cursor, "trial", number)


@router.get("/studies/{name}/promotions/{number}")
async def promotion(
    name: str, number: int, feed: FeedDep, results: ResultsDep, forecasts: ForecastsDep
) -> HTMLResponse:
    """One promotion's run."""
    state = await feed.state()
    return await run_in_threadpool(run_page, results, state, feed.cursor, "promotion", number, forecasts)


def run_page(
    results: Results,
    state: StudyState,
    cursor: str,
    kind: RunKind,
    number: int,
    forecasts: FullForecasts | None = None,
) -> HTMLResponse:
    """The page of a run; 404 where there is none."""
    summary = state.summary
    try:
        detail = results.run(summary.name, kind, number)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    record = next((p for p in summary.promotions if kind == "promotion" and p.number == number), None)
    standing = results.standing(detail) if kind == "promotion" else None
    return page(
        "run.html",
        study=summary,
        run=detail,
        promotion=record,
        standing=standing,
        foretold=forecasts.of_run(detail) if forecasts is not None else None,
        cursor=cursor,
        names=short_names(summary.axes),
        neighbours=_neighbours(sorted(state.trials), number),
    )


def _neighbours(numbers: list[int], number: int) -> tuple[int | None, int | None]:
    before = [n for n in numbers if n < number]
    after = [n for n in numbers if n > number]
    return (before[-1] if before else None, after[0] if after else None)


@router.get("/assets/plotly-{version}.min.js")
def plotly(version: str, request: Request) -> Response:
    """Plotly's script; the version in its address is its hash."""
    if version != assets.plotly_script()[1]:
        raise HTTPException(404, f"plotly.min.js has version {assets.plotly_script()[1]} here, not {version}")
    return assets.plotly_response(request.headers)
