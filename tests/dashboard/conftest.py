"""A database with a study in it, the dashboard over it on a real port, and a real Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import Engine

from tests.dashboard.serve import app_over, served
from tests.dashboard.synthetic import Writer, new_engine

CHROMIUM_ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = new_engine(tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def writer(engine: Engine) -> Writer:
    """An empty study named lr-wd-batch."""
    return Writer(engine)


@pytest.fixture
def server(engine: Engine) -> Iterator[str]:
    with served(app_over(engine)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module: while Playwright is open its event loop runs, and no test may start another."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser on PATH: looked for {', '.join(names)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM_ARGUMENTS, timeout=60_000)
        yield browser
        browser.close()


class Watched:
    """A page, with everything that went wrong on it and every address that it asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        self.addresses: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("request", lambda request: self.addresses.append(request.url))


@pytest.fixture
def watched(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A page at 1440×900, or at the size given as the fixture's parameter."""
    width, height = getattr(request, "param", (1440, 900))
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(20_000)
    yield Watched(page)
    page.close()
