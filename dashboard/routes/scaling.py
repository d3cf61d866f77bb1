"""The scaling page: its frame, the figures that it fetches, the table of laws, and what is drawn as CSV."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from dashboard import figures_scaling_rates as rates
from dashboard import figures_scaling_sizes as sizes
from dashboard import figures_scaling_speed as speed
from dashboard import figures_scaling_trust as trust
from dashboard.figures_scaling import Card, to_csv
from dashboard.routes.pages import page
from dashboard.theme import THEMES, Theme, ThemeName
from sweeper import observations_laws
from sweeper.api_results import ResultsDep
from sweeper.observations import (
    LOSS_WORDS,
    PARAMS_WORDS,
    RATE_WORDS,
    LossSource,
    ParamsCount,
    RateConvention,
    Switches,
)
from sweeper.observations_fits import Fits
from sweeper.observations_read import FitsStore
from sweeper.results import UnknownError

router = APIRouter(include_in_schema=False)

PLOTS: dict[str, tuple[str, Callable[[Fits, Theme], Card]]] = {
    "bowls": ("Score over learning rate", rates.bowls),
    "rate": ("Best learning rate over tokens, batch and parameters", rates.rate_law),
    "tau": ("Weight decay as a timescale", rates.tau),
    "batch": ("Batch at equal tokens and at equal seconds", sizes.batch),
    "loss": ("Score over tokens, and ahead", sizes.loss),
    "budgets": ("Model size at equal budgets", sizes.budgets),
    "throughput": ("Seconds a step by device, depth and batch", speed.throughput),
    "noise": ("Noise of repeats", trust.noise),
    "rungs": ("How early the order shows", trust.rungs),
    "residuals": ("What the laws leave over", trust.residuals),
    "audit": ("What pruning costs", trust.audit),
    "calibration": ("Full runs against their forecasts", trust.calibration),
}


def shared_fits(request: Request, results: ResultsDep) -> FitsStore:
    """The app's one store of fits, made at the first request."""
    state = request.app.state
    if not hasattr(state, "fits"):
        state.fits = FitsStore(state.engine, results)
    store: FitsStore = state.fits
    return store


def switches(
    params: ParamsCount = "non_embedding", rate: RateConvention = "as_given", loss: LossSource = "judged"
) -> Switches:
    """The conventions that the address asks for."""
    return Switches(params=params, rate=rate, loss=loss)


StoreDep = Annotated[FitsStore, Depends(shared_fits)]
SwitchesDep = Annotated[Switches, Depends(switches)]


@router.get("/studies/{name}/scaling")
def scaling(name: str, results: ResultsDep, chosen: SwitchesDep) -> HTMLResponse:
    """The page; figures and laws are fetched by it."""
    try:
        study = results.study(name)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    choices = (
        ("params", "Parameters count", PARAMS_WORDS, chosen.params),
        ("rate", "Learning rate", RATE_WORDS, chosen.rate),
        ("loss", "Score", LOSS_WORDS, chosen.loss),
    )
    titles = {key: title for key, (title, _) in PLOTS.items()}
    return page("scaling.html", study=study, plots=titles, choices=choices)


@router.get("/studies/{name}/scaling/figures/{key}")
def scaling_figure(
    name: str, key: str, request: Request, store: StoreDep, chosen: SwitchesDep, theme: ThemeName = "light"
) -> Response:
    """One figure and what must be known to read it; 304 while no further run has ended."""
    draw = _plot(key)
    try:
        tag = f'"{abs(hash((store.mark(name), chosen, theme))):x}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        fits = store.fits(name, chosen)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    with fits.lock:
        card = draw(fits, THEMES[theme])
    body: dict[str, Any] = {
        "figures": {} if card.figure is None else {key: card.figure},
        "note": card.empty.replace("--study S", f"--study {name}"),
        "card": {
            "says": card.says,
            "used": card.used,
            "excluded": [f"{count:,} {reason}" for reason, count in card.excluded],
            "missing": card.missing,
            "method": card.method,
        },
    }
    text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    return Response(text, media_type="application/json", headers={"ETag": tag, "Cache-Control": "no-cache"})


@router.get("/studies/{name}/scaling/laws")
def laws(name: str, store: StoreDep, chosen: SwitchesDep) -> HTMLResponse:
    """The table of laws, as a piece of the page."""
    try:
        fits = store.fits(name, chosen)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    rows = observations_laws.lines(fits)
    return page("scaling_laws.html", rows=rows, excluded=observations_laws.left_out(fits), runs=len(fits.trials.runs))


@router.get("/studies/{name}/scaling/{key}.csv")
def scaling_csv(name: str, key: str, store: StoreDep, chosen: SwitchesDep) -> Response:
    """What a figure draws, one line a point."""
    draw = _plot(key)
    try:
        fits = store.fits(name, chosen)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    with fits.lock:
        card = draw(fits, THEMES["light"])
    if card.figure is None:
        raise HTTPException(404, f"nothing is drawn: {card.empty}")
    shown = {"Content-Disposition": f'attachment; filename="{key}.csv"'}
    return Response(to_csv(card.figure), media_type="text/csv", headers=shown)


def _plot(key: str) -> Callable[[Fits, Theme], Card]:
    if key not in PLOTS:
        raise HTTPException(404, f"there is no figure {key}; known: {', '.join(PLOTS)}")
    return PLOTS[key][1]
