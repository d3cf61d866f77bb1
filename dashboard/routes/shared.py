"""What all routes need: results, feeds, templates; made once an app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dashboard import assets, wording
from dashboard.figures_space import short_names
from dashboard.live import Feeds, StudyFeed
from sweeper.api_results import ResultsDep
from sweeper.records import Activity, StudySummary
from sweeper.results import UnknownError

templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent.parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters.update(wording.FILTERS)
templates.globals.update(
    static=lambda path: f"/static/{assets.static_version()}/{path}",
    plotly=lambda: f"/assets/plotly-{assets.plotly_script()[1]}.min.js",
)

FRAGMENTS = ("summary", "running", "promotions", "activity")
"""Pieces of the study page that live updates replace; each is a template and the id of an element."""


def render_fragments(study: StudySummary, activity: list[Activity]) -> dict[str, str]:
    """The study page's live pieces by element id."""
    names = short_names(study.axes)
    values = {"study": study, "activity": activity, "names": names}
    return {key: _tight(templates.get_template(f"study/{key}.html").render(values)) for key in FRAGMENTS}


def _tight(html: str) -> str:
    """Without the indentation of the template: these pieces are sent again and again, uncompressed."""
    return "\n".join(line for line in map(str.strip, html.splitlines()) if line)


def shared_feeds(request: Request, results: ResultsDep) -> Feeds:
    """The app's one set of feeds, made at the first request."""
    state = request.app.state
    if not hasattr(state, "feeds"):
        state.feeds = Feeds(results, render_fragments)
    feeds: Feeds = state.feeds
    return feeds


async def study_feed(name: str, feeds: Annotated[Feeds, Depends(shared_feeds)]) -> StudyFeed:
    """The feed of the study in the path; 404 for an unknown one."""
    try:
        return await feeds.get(name)
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error


FeedDep = Annotated[StudyFeed, Depends(study_feed)]
