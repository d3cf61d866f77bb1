"""Two palettes, told apart by every common kind of colour vision (after Okabe and Ito), and the chart frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Figure = dict[str, Any]
"""A Plotly figure as JSON values: `data` and `layout`."""

ThemeName = Literal["light", "dark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """Colours of one scheme; the style sheet holds the same ones under the same names."""

    text: str
    muted: str
    grid: str
    surface: str
    complete: str
    running: str
    pruned: str
    failed: str
    best: str
    ramp: tuple[str, ...]
    """Worst to best, readable as lightness alone."""


LIGHT = Theme(
    text="#1b2430",
    muted="#5b6675",
    grid="#e6eaef",
    surface="#ffffff",
    complete="#0072b2",
    running="#d55e00",
    pruned="#8a94a1",
    failed="#b0447f",
    best="#00805d",
    ramp=("#c9d6e6", "#a3bfda", "#7ca6cd", "#568dc0", "#3474ad", "#1e5b93", "#104375", "#062c56"),
)
DARK = Theme(
    text="#e5eaf1",
    muted="#9aa7b6",
    grid="#29323d",
    surface="#161c24",
    complete="#56b4e9",
    running="#f0a54a",
    pruned="#77828f",
    failed="#e08cbb",
    best="#35cc9f",
    ramp=("#2c3f56", "#33557a", "#3a6c9b", "#4785b8", "#5e9fce", "#7fb9df", "#a8d2ec", "#d6ecfa"),
)
THEMES: dict[ThemeName, Theme] = {"light": LIGHT, "dark": DARK}


def figure(theme: Theme, data: list[Figure], **layout: Any) -> Figure:
    """Traces on the common frame; keywords add to or replace parts of the layout."""
    frame: dict[str, Any] = {
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 12, "color": theme.text},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 52, "r": 14, "t": 30, "b": 42},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": theme.surface, "bordercolor": theme.grid, "font": {"color": theme.text}},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.0,
            "yanchor": "bottom",
            "font": {"color": theme.muted, "size": 11},
        },
        "uirevision": "keep",  # a refresh does not undo the reader's zoom
    }
    return {"data": data, "layout": {**frame, **layout}}


def axis(theme: Theme, title: str, **more: Any) -> Figure:
    """One axis of the common frame."""
    return {
        "title": {"text": title, "font": {"size": 12, "color": theme.muted}, "standoff": 8},
        "gridcolor": theme.grid,
        "linecolor": theme.grid,
        "tickfont": {"color": theme.muted, "size": 11},
        "zeroline": False,
        "automargin": True,
        **more,
    }
