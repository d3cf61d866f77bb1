"""What every figure of the scaling page is made of: the card about it, panels, bands, interval texts, its CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dashboard.theme import Figure, Theme, axis
from sweeper.observations_fits import Fits, reasons
from sweeper.observations_names import run_name
from sweeper.observations_trust import seed_noise
from sweeper.scaling.records import Array, Estimate, Excluded

APART = 2.8
"""Standard deviations by which the scores of two equal runs differ in one pair of twenty: 1.96 times the root of 2."""
MOST_GROUPS = 8
"""Lines or colours of one figure; beyond, the ones with most runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A figure with all that must be known to read it; without a figure, what to run for one."""

    figure: Figure | None = None
    says: str = ""
    """What it shows, in plain words."""
    used: str = ""
    excluded: list[tuple[str, int]] = field(default_factory=list)
    """Why things were left out, and how many."""
    missing: list[str] = field(default_factory=list)
    """What is not identified, and why."""
    method: str = ""
    """How the intervals were made, or why there is none."""
    empty: str = ""
    """Without a figure: why, and what to run."""


def panel(theme: Theme, place: int, count: int, x_title: str, y_title: str, **more: Any) -> dict[str, Any]:
    """Axes of one of `count` panels side by side: `x` and `y` hold further settings of each axis."""
    more = {side: {"automargin": False, **more.get(side, {})} for side in ("x", "y")}  # a quarter of the drawing time
    gap = 0.1 if count > 1 else 0.0
    width = (1 - gap * (count - 1)) / count
    tail = "" if place == 0 else str(place + 1)
    domain = [place * (width + gap), min(1.0, place * (width + gap) + width)]
    return {
        "margin": {"l": 62, "r": 14, "t": 30, "b": 44},
        f"xaxis{tail}": axis(theme, x_title, domain=domain, anchor=f"y{tail}", **more["x"]),
        f"yaxis{tail}": axis(theme, y_title, anchor=f"x{tail}", **more["y"]),
    }


def on(place: int) -> dict[str, str]:
    """The axes of a trace on a panel."""
    return {} if place == 0 else {"xaxis": f"x{place + 1}", "yaxis": f"y{place + 1}"}


def log_axis() -> dict[str, Any]:
    """Settings of a logarithmic axis."""
    return {"type": "log", "nticks": 6, "exponentformat": "B", "tickangle": 0}


def dots(
    name: str, x: Sequence[float] | Array, y: Sequence[float] | Array, trials: Sequence[int], color: str, **more: Any
) -> Figure:
    """Points that open their trial at a click, diamonds of confirmation runs their own page."""
    numbers = [int(number) for number in trials]
    marker = {"color": color, "size": 7, "opacity": 0.8} | more.pop("marker", {})
    if min(numbers, default=0) < 0:
        marker = {"symbol": ["diamond" if number < 0 else "circle" for number in numbers]} | marker
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": clean(x),
        "y": clean(y),
        "customdata": numbers,
        "marker": marker,
        **more,
    }
    return hovered(points, "trial %{customdata}<br>%{x:.4g}<br>%{y:.5g}<extra>" + name + "</extra>")


def hovered(points: Figure, template: str) -> Figure:
    """The points with what is told of each; confirmation runs, whose numbers are below 0, by their own name."""
    numbers = points["customdata"]
    if min(numbers, default=0) >= 0:
        return points | {"hovertemplate": template}
    own = [template if n >= 0 else template.replace("trial %{customdata}", run_name(n)) for n in numbers]
    return points | {"hovertemplate": own}


def line(name: str, x: Sequence[float] | Array, y: Sequence[float] | Array, color: str, **more: Any) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": clean(x),
        "y": clean(y),
        "line": {"color": color, "width": 2} | more.pop("line", {}),
        "hovertemplate": "%{x:.4g}: %{y:.5g}<extra>" + name + "</extra>",
        **more,
    }


def band(name: str, x: Array, low: Array, high: Array, color: str, **more: Any) -> Figure:
    """A filled interval about a line."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": clean(np.concatenate([x, x[::-1]])),
        "y": clean(np.concatenate([high, low[::-1]])),
        "fill": "toself",
        "fillcolor": color,
        "opacity": 0.16,
        "line": {"width": 0, "color": color},
        "hoverinfo": "skip",
        **more,
    }


def guide(name: str, x: Sequence[float] | Array, y: Sequence[float] | Array, theme: Theme, **more: Any) -> Figure:
    """A grey line of what others found, under everything else."""
    dash = more.pop("dash", "dot")
    return line(name, x, y, theme.muted, line={"width": 1, "dash": dash}, opacity=0.75, showlegend=False, **more)


def star(name: str, x: float, at: Estimate, text: str, theme: Theme, **more: Any) -> Figure:
    """Where the full run is foretold, with its interval."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": clean([x]),
        "y": clean([at.value]),
        "error_y": bars([at]),
        "text": [text],
        "marker": {"symbol": "star", "size": 14, "color": theme.running},
        "hovertemplate": "%{text}<extra></extra>",
        **more,
    }


def vertex(name: str, x: Estimate, y: float, color: str, **more: Any) -> Figure:
    """An optimum with its interval along x."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": clean([x.value]),
        "y": clean([y]),
        "error_x": bars([x]),
        "marker": {"symbol": "diamond", "size": 9, "color": color},
        "showlegend": False,
        "hovertemplate": name + " %{x:.4g}<extra></extra>",
        **more,
    }


def bars(values: Sequence[Estimate]) -> Figure:
    """Intervals of estimates as Plotly's error bars."""
    return {
        "type": "data",
        "symmetric": False,
        "array": clean([e.high - e.value for e in values]),
        "arrayminus": clean([e.value - e.low for e in values]),
        "thickness": 1.2,
        "width": 3,
    }


def clean(values: Sequence[float] | Array) -> list[float | None]:
    """Six significant digits for the wire, None for what is not finite."""
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in np.asarray(values, dtype=float).tolist()]


def note(theme: Theme, text: str, **place: Any) -> Figure:
    """A remark inside the plot."""
    at = {"xref": "paper", "yref": "paper", "x": 1, "y": 1, "xanchor": "right", "yanchor": "top", "showarrow": False}
    return (
        at
        | {"bgcolor": theme.surface, "text": text, "font": {"size": 11, "color": theme.muted}, "align": "right"}
        | place
    )


def upright(theme: Theme, x: float, color: str, dash: str = "dash") -> Figure:
    """A vertical line over the whole height of the first panel."""
    line = {"color": color, "width": 1.5, "dash": dash}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def interval(e: Estimate, form: str = ".3g", unit: str = "") -> str:
    """Such as `0.021 (0.019 to 0.024)`."""
    tail = f" {unit}" if unit else ""
    return f"{e.value:{form}}{tail} ({e.low:{form}} to {e.high:{form}})"


def short(number: float) -> str:
    """Such as `131 K`, `3 B`."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def known(*parts: tuple[str, float]) -> str:
    """Parts such as `batch {}`, each with its number, those left out whose number is not known."""
    return ", ".join(words.format(short(number)) for words, number in parts if np.isfinite(number))


def remedy(fits: Fits, here: str, needed: str) -> str:
    """What to do for a figure: the trials to run `here`, or which runs are `needed`, where they are imported."""
    return f"Import {needed}: sweeper import FILE --study S." if fits.study.foreign else here


def ramp(theme: Theme, count: int) -> list[str]:
    """`count` colours from weak to strong, none of the weakest where there are few."""
    places = np.linspace(len(theme.ramp) - 1, 2 if count > 1 else len(theme.ramp) - 1, max(count, 1)).round()
    return [theme.ramp[int(place)] for place in places][::-1]


def noise_shapes(fits: Fits, best: float, theme: Theme, panels: int = 1, *, percent: bool = False) -> list[Figure]:
    """A stripe from the best score up, as high as two runs may lie apart by their seeds alone; none where unknown.

    Args:
        percent: the axis shows per cent above the best.
    """
    found = fits.get(seed_noise)
    if found.deviation is None or not np.isfinite(best):
        return []
    high = APART * found.deviation.value
    sides: Figure = {"y0": 0, "y1": 100 * high / best} if percent else {"y0": best, "y1": best + high}
    sides |= {"fillcolor": theme.best, "opacity": 0.13}
    return [
        {"type": "rect", "xref": f"x{tail} domain", "x0": 0, "x1": 1, "yref": f"y{tail}", "layer": "below"}
        | {"line": {"width": 0}, **sides}
        for tail in ("", *(str(place) for place in range(2, panels + 1)))
    ]


def noise_words(fits: Fits) -> str:
    """What the stripe is, or why there is none; ends the remark on intervals."""
    found = fits.get(seed_noise)
    if found.deviation is None:
        return f"; no stripe of seed noise: {found.not_identified}"
    return f"; stripe: {APART * found.deviation.value:.2g} {fits.study.unit.words}, by which equal values may differ"


def run_reasons(fits: Fits) -> list[tuple[str, int]]:
    """Why trials have no row at all, alike reasons counted together."""
    return reasons(tuple(Excluded(0, _alike(one.reason)) for one in fits.trials.excluded))


def _alike(reason: str) -> str:
    state = reason.split(" at ")[0]
    return f"{state} before the end of its budget: no final score" if "has no final score" in reason else reason


def sizes_of(fits: Fits) -> str:
    """`n scores of m trials`, and of how many confirmation runs."""
    return fits.trials.sizes


def to_csv(figure: Figure) -> str:
    """Everything that a figure draws, one line a point; last what its axes show, with their units."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trace", "x", "y", "x_minus", "x_plus", "y_minus", "y_plus", "trial", "text", "x_axis", "y_axis"])
    for trace in figure["data"]:
        xs, ys = trace.get("x") or [], trace.get("y") or []
        numbers = [_named(number) for number in trace.get("customdata") or [None] * len(xs)]
        texts = trace.get("text")
        texts = texts if isinstance(texts, list) else [texts] * len(xs)
        errors = [trace.get(f"error_{way}") or {} for way in ("x", "y")]
        axes = [_axis_title(figure, trace, way) for way in ("x", "y")]
        columns = [error.get(side) or [None] * len(xs) for error in errors for side in ("arrayminus", "array")]
        for row in zip(xs, ys, *columns, numbers, texts, strict=True):
            if row[0] is not None or row[1] is not None:
                writer.writerow([trace.get("name", ""), *row, *axes])
    return out.getvalue()


def _axis_title(figure: Figure, trace: Figure, way: str) -> str:
    """Of the axis that a trace is drawn on, a further one of a row of panels by the first's, which all share."""
    place = str(trace.get(f"{way}axis", way)).removeprefix(way)
    titles = [figure["layout"].get(f"{way}axis{tail}", {}).get("title", {}) for tail in (place, "")]
    return next((str(title["text"]) for title in titles if title.get("text")), "")


def _named(number: Any) -> Any:
    """The number of a trial, the name of a confirmation run."""
    return run_name(number) if isinstance(number, int) and number < 0 else number
