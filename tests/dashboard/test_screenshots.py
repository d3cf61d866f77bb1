"""Screenshots for the documentation, from a real sweep.

    SWEEPER_SCREENSHOTS=http://127.0.0.1:8321/lr-wd-batch pytest tests/dashboard/test_screenshots.py

names a running service and a study with a finished sweep; writes docs/{study,trial}-{1440,390}.png.
"""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page

DOCS = Path(__file__).parents[2] / "docs"
SIZES = ((1440, 900), (390, 844))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif("SWEEPER_SCREENSHOTS" not in os.environ, reason="SWEEPER_SCREENSHOTS names no running study"),
]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_take_screenshots(browser: Browser, width: int, height: int) -> None:
    service, _, name = os.environ["SWEEPER_SCREENSHOTS"].rstrip("/").rpartition("/")
    summary = httpx.get(f"{service}/api/v1/studies/{name}", trust_env=False).raise_for_status().json()
    assert summary["best"] is not None, f"study {name} has no complete trial yet"
    paths = {"study": f"/studies/{name}", "trial": f"/studies/{name}/trials/{summary['best']['number']}"}
    for kind, path in paths.items():
        page = browser.new_page(viewport={"width": width, "height": height})
        problems: list[str] = []
        page.on("pageerror", lambda error, seen=problems: seen.append(str(error)))
        page.goto(service + path)
        settle(page)
        page.screenshot(path=DOCS / f"{kind}-{width}.png")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert problems == []
        page.close()


def settle(page: Page) -> None:
    """Until the figures that are in view, or near it, are drawn."""
    page.wait_for_selector("#live[data-state=on]")
    # Asked anew each time: what is drawn pushes others out of view, and those are not fetched.
    page.wait_for_function(
        """() => [...document.querySelectorAll("[data-figure]")]
             .filter((e) => e.getBoundingClientRect().top < innerHeight)
             .every((e) => e.dataset.drawn || /^(?!Loading)./.test(e.querySelector(".empty")?.textContent ?? ""))"""
    )
    page.wait_for_timeout(500)
