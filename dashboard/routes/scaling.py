"""The scaling page: its frame, the figures that it fetches, the table of laws, and what is drawn as CSV."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from starlette.background import BackgroundTask

from dashboard import figures_scaling_batch as batch
from dashboard import figures_scaling_budgets as budgets
from dashboard import figures_scaling_curves as curves
from dashboard import figures_scaling_decay as decay
from dashboard import figures_scaling_gpus as gpus
from dashboard import figures_scaling_rate_law as rate_law
from dashboard import figures_scaling_rates as rates
from dashboard import figures_scaling_sizes as sizes
from dashboard import figures_scaling_speed as speed
from dashboard import figures_scaling_surface as surface
from dashboard import figures_scaling_trust as trust
from dashboard.card_files import CardFiles
from dashboard.figures_scaling import Card, to_csv
from dashboard.routes.pages import page
from dashboard.routes.scaling_cards import Cards
from dashboard.theme import Theme, ThemeName
from sweeper import observations_laws
from sweeper.api_results import FitsDep, ResultsDep
from sweeper.observations_fits import Fits
from sweeper.observations_switches import (
    LOSS_WORDS,
    RATE_WORDS,
    Asked,
    LossSource,
    ParamsCount,
    RateConvention,
    Switches,
)
from sweeper.results import UnknownError

router = APIRouter(include_in_schema=False)

PLOTS: dict[str, tuple[str, Callable[[Fits, Theme], Card]]] = {
    "bowls": ("Score over learning rate", rates.bowls),
    "rate": ("Best learning rate over tokens, batch and parameters", rate_law.rate_law),
    "surface": ("Learning rate with decay, and with batch", surface.surface),
    "tau": ("Weight decay as a timescale", decay.tau),
    "tau_law": ("Best timescale over tokens per parameter", decay.tau_law),
    "batch": ("Batch at equal tokens and at equal seconds", batch.batch),
    "loss": ("Score over tokens, and ahead", sizes.loss),
    "budgets": ("Model size at equal budgets", budgets.budgets),
    "frontier": ("Best model size over budget", budgets.frontier),
    "curves": ("Learning curves and their forecast", curves.curves),
    "rungs": ("How early the order shows", trust.rungs),
    "audit": ("What pruning costs", trust.audit),
    "speeds": ("The same seconds on another device", gpus.speeds),
    "throughput": ("Seconds a step by device, depth and batch", speed.throughput),
    "sensitivity": ("Sensitivity to the learning rate", rates.sensitivity),
    "noise": ("Noise of repeats", trust.noise),
    "residuals": ("What the laws leave over", trust.residuals),
    "calibration": ("Full runs against their forecasts", trust.calibration),
}
"""In the order of the page: what to set first, what it rests on last."""


def shared_cards(request: Request, store: FitsDep) -> Cards:
    """The app's one store of drawn cards."""
    state = request.app.state
    if not hasattr(state, "cards"):
        files = CardFiles(getattr(state, "cache", None))
        state.cards = Cards(store, {key: draw for key, (_, draw) in PLOTS.items()}, files)
    cards: Cards = state.cards
    return cards


def switches(
    name: str,
    store: FitsDep,
    params: ParamsCount | None = None,
    rate: RateConvention = "as_given",
    loss: LossSource = "judged",
) -> Switches:
    """The conventions that the address asks for, the others as the study's runs have them; 404 for an unknown study."""
    try:
        return store.switches(name, Asked(params=params, rate=rate, loss=loss))
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error


CardsDep = Annotated[Cards, Depends(shared_cards)]
SwitchesDep = Annotated[Switches, Depends(switches)]


@router.get("/studies/{name}/scaling")
def scaling(name: str, results: ResultsDep, store: FitsDep, cards: CardsDep, chosen: SwitchesDep) -> HTMLResponse:
    """The page; figures and laws are fetched by it, and drawn from now on."""
    try:
        study = results.study(name)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    counting = store.counting(name)
    choices = (
        ("params", "Parameters count", counting.choices(), chosen.params, counting.known),
        ("rate", "Learning rate", RATE_WORDS, chosen.rate, frozenset(RATE_WORDS)),
        ("loss", "Score", LOSS_WORDS, chosen.loss, frozenset(LOSS_WORDS)),
    )
    titles = {key: title for key, (title, _) in PLOTS.items()}
    shown = page("scaling.html", study=study, plots=titles, choices=choices)
    shown.background = BackgroundTask(cards.prepare, name, chosen)
    return shown


@router.post("/studies/{name}/scaling/first")
def scaling_first(name: str, cards: CardsDep, chosen: SwitchesDep) -> Response:
    """A reader is at the study: what the page shows first is drawn meanwhile, where it never was."""
    try:
        cards.tag(name, chosen, "light")
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    return Response(status_code=204, background=BackgroundTask(cards.prepare_first, name))


@router.get("/studies/{name}/scaling/figures/{key}")
def scaling_figure(
    name: str,
    key: str,
    request: Request,
    cards: CardsDep,
    chosen: SwitchesDep,
    theme: ThemeName = "light",
    fresh: bool = False,
) -> Response:
    """One figure and what must be known to read it; 304 while no further run has ended.

    Where runs have ended since it was last drawn, it comes as it was at once, with a line `stale` that says so, unless
    `fresh`: then as soon as it is fitted anew.
    """
    _check(key)
    try:
        if not fresh and (earlier := cards.earlier(name, key, chosen, theme)) is not None:
            return Response(earlier, media_type="application/json", headers={"Cache-Control": "no-store"})
        tag = cards.tag(name, chosen, theme)
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        body = cards.body(name, key, chosen, theme)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    return Response(body, media_type="application/json", headers={"ETag": tag, "Cache-Control": "no-cache"})


@router.get("/studies/{name}/scaling/laws")
def laws(name: str, store: FitsDep, chosen: SwitchesDep) -> HTMLResponse:
    """The table of laws, as a piece of the page."""
    try:
        fits = store.fits(name, chosen)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    rows = observations_laws.lines(fits)
    return page("scaling_laws.html", rows=rows, excluded=observations_laws.left_out(fits), runs=len(fits.trials.runs))


@router.get("/studies/{name}/scaling/{key}.csv")
def scaling_csv(name: str, key: str, cards: CardsDep, chosen: SwitchesDep) -> Response:
    """What a figure draws, one line a point."""
    _check(key)
    try:
        card = cards.card(name, key, chosen, "light")
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    if card.figure is None:
        raise HTTPException(404, f"nothing is drawn: {card.empty}".replace("--study S", f"--study {name}"))
    shown = {"Content-Disposition": f'attachment; filename="{key}.csv"'}
    return Response(to_csv(card.figure), media_type="text/csv", headers=shown)


def _check(key: str) -> None:
    if key not in PLOTS:
        raise HTTPException(404, f"there is no figure {key}; known: {', '.join(PLOTS)}")
