"""Figures as JSON, fetched by the page after its first paint and again when their data changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response

from dashboard import figures, figures_promotions, figures_runs, figures_space
from dashboard.theme import THEMES, Figure, Theme, ThemeName
from sweeper.api_results import ForecastsDep, ResultsDep
from sweeper.protocol import RunKind
from sweeper.records import Curves, Metric
from sweeper.results import Results, UnknownError

router = APIRouter(include_in_schema=False)

Drawn = tuple[dict[str, Figure], str]
"""Figures by key, and a sentence for the reader: why there are none, or what is left out."""


def curves(results: Results, name: str, theme: Theme, metric: Metric) -> Drawn:
    study = results.study(name)
    found = results.curves(name, metric)
    if not len(found.values):
        return {}, "Curves appear when the first trial reports a point."
    best = None if study.best is None else study.best.number
    return {"curves": figures.curves(found, theme, study.unit, best=best, rungs=study.rungs)}, ""


def history(results: Results, name: str, theme: Theme, metric: Metric) -> Drawn:
    study = results.study(name)
    drawn = figures.history(results.trials(name), theme, title=study.unit.heading(study.judge))
    return ({"history": drawn}, "") if drawn["data"] else ({}, "Scores appear when the first trial ends.")


def parameters(results: Results, name: str, theme: Theme, metric: Metric) -> Drawn:
    study, trials = results.study(name), results.trials(name)
    if not any(t.score is not None for t in trials):
        return {}, "Appears when the first trial is complete."
    names, title = figures_space.short_names(study.axes), study.unit.heading(study.judge)
    drawn = {a.path: figures_space.parameter(trials, a, theme, name=names[a.path], title=title) for a in study.axes}
    return drawn, _left_out(len([t for t in trials if t.score is not None and not t.infeasible]))


def parallel(results: Results, name: str, theme: Theme, metric: Metric) -> Drawn:
    study, trials = results.study(name), results.trials(name)
    complete = [t for t in trials if t.score is not None and not t.infeasible]
    if len(complete) < 2:
        kept = " and keep the study's limits" if study.constraints else ""
        return {}, f"Appears when two trials are complete{kept}."
    drawn = figures_space.parallel(trials, study.axes, theme, title=study.unit.heading(study.judge))
    return {"parallel": drawn}, _left_out(len(complete))


def _left_out(complete: int) -> str:
    most = figures_space.MOST_TRIALS
    return f"Drawn: the best {most:,} of {complete:,} complete trials." if complete > most else ""


def importances(results: Results, name: str, theme: Theme, metric: Metric) -> Drawn:
    found = results.importances(name)
    if not found.shares:
        return {}, found.note
    names = figures_space.short_names(results.study(name).axes)
    return {"importances": figures_space.importances(found, theme, names)}, found.note


def promotions(results: Results, name: str, theme: Theme, metric: Metric) -> Drawn:
    records = results.promotions(name)
    merged = results.promotion_curves(name)
    if not any(len(points.step) for points in merged.values()):
        return {}, "The curve appears when the promotion reports its first validation." if records else ""
    wanted = {record.trial for record in records}
    scores = {t.number: t.score for t in results.trials(name) if t.score is not None and t.number in wanted}
    return {"promotions": figures_runs.promotions(merged, records, scores, theme, results.study(name).unit)}, ""


STUDY_FIGURES: dict[str, Callable[[Results, str, Theme, Metric], Drawn]] = {
    function.__name__: function for function in (curves, history, parameters, parallel, importances, promotions)
}


@router.get("/studies/{name}/figures/{key}")
def study_figure(
    name: str,
    key: str,
    request: Request,
    results: ResultsDep,
    theme: ThemeName = "light",
    metric: Metric = "val_bpb",
) -> Response:
    """One figure of the study page; 304 when nothing has changed since the client's copy."""
    if key not in STUDY_FIGURES:
        raise HTTPException(404, f"there is no figure {key}; known: {', '.join(STUDY_FIGURES)}")
    try:
        tag = f'"{abs(hash(results.version(name))):x}-{theme}-{metric}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        drawn = STUDY_FIGURES[key](results, name, THEMES[theme], metric)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    return _json(drawn, {"ETag": tag, "Cache-Control": "no-cache"})


@router.get("/studies/{name}/{kinds}/{number}/figures")
def run_figures(
    name: str, kinds: str, number: int, results: ResultsDep, forecasts: ForecastsDep, theme: ThemeName = "light"
) -> Response:
    """The figures of a trial's or a promotion's page."""
    known: dict[str, RunKind] = {"trials": "trial", "promotions": "promotion"}
    if kinds not in known:
        raise HTTPException(404, f"expected trials or promotions, got {kinds}")
    try:
        detail = results.run(name, known[kinds], number)
        best = _best_curve(results, name, number) if known[kinds] == "trial" else None
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    if not len(detail.points.step):
        return _json(({}, "The curve appears with the first point that the trainer reports."), {})
    drawn = {
        "run": figures_runs.run(detail, THEMES[theme], results.study(name).unit, best=best),
        "throughput": figures_runs.throughput(detail, THEMES[theme]),
    }
    if known[kinds] == "promotion":
        foretold = forecasts.of_run(detail)
        drawn["forecast"] = figures_promotions.forecast(results.standing(detail), THEMES[theme], foretold)
    return _json((drawn, ""), {"Cache-Control": "no-store"})


def _best_curve(results: Results, name: str, number: int) -> Curves | None:
    best = results.study(name).best
    if best is None or best.number == number:
        return None
    found = results.curves(name)
    if best.number not in found.numbers:
        return None
    index = found.numbers.index(best.number)
    piece = slice(found.offsets[index], found.offsets[index + 1])
    return Curves(
        metric=found.metric,
        numbers=(best.number,),
        states=(found.states[index],),
        offsets=found.offsets[:2] * 0,
        progress=found.progress[piece],
        values=found.values[piece],
    )


def _json(drawn: Drawn, headers: dict[str, str]) -> Response:
    shown, note = drawn
    body: dict[str, Any] = {"figures": shown, "note": note}
    text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    return Response(text, media_type="application/json", headers=headers)
