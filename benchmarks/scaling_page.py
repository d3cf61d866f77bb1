"""What the scaling page costs at 3,000 trials: time of each figure's first and later answer, bytes, and drawing.

python -m benchmarks.scaling_page [TRIALS]
"""

from __future__ import annotations

import gzip
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import Engine

from dashboard.routes.scaling import PLOTS
from tests.dashboard import scaled
from tests.dashboard.conftest import CHROMIUM_ARGUMENTS
from tests.dashboard.serve import app_over, served
from tests.dashboard.synthetic import new_engine

WATCH = """window.drawnAt = {};
new MutationObserver((changes) => {
  for (const { target } of changes) drawnAt[target.dataset.figure] ??= performance.now();
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-drawn"] });"""
LACKING = """[...document.querySelectorAll("[data-figure]")].some(
    (f) => !f.dataset.drawn && (f.querySelector(".empty")?.textContent ?? "Loading…") === "Loading…")"""
PAGE = f"/studies/{scaled.NAME}/scaling"


def timed(client: httpx.Client, path: str) -> None:
    seconds = []
    raw, zipped = b"", False
    for _ in range(3):
        start = time.perf_counter()
        with client.stream("GET", path) as answer:
            raw = b"".join(answer.iter_raw())
            zipped = answer.headers.get("content-encoding") == "gzip"
        seconds.append(1000 * (time.perf_counter() - start))
    plain = len(gzip.decompress(raw)) if zipped else len(raw)
    name = path.removeprefix(PAGE) or "(page)"
    print(f"{name:26} {len(raw) / 1e3:7.1f} kB wire {plain / 1e3:8.1f} kB plain {seconds[0]:7.0f} ms first "
          f"{min(seconds[1:]):6.0f} ms later")  # fmt: skip


def opened(chromium: Browser, url: str) -> tuple[float, float, float]:
    """Milliseconds from the start of navigation to the first paint, until the two figures in view are drawn, and until
    all are, scrolling on."""
    page = chromium.new_page(viewport={"width": 1440, "height": 900})
    page.add_init_script(WATCH)
    start = time.perf_counter()
    page.goto(url + PAGE)
    for key in ("bowls", "rate"):
        page.wait_for_selector(f"[data-figure={key}][data-drawn]", state="attached")
    in_view = page.evaluate("Math.max(drawnAt.bowls, drawnAt.rate)")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN")
    while not page.evaluate("(scrollBy(0, 700), scrollY + innerHeight >= document.documentElement.scrollHeight - 1)"):
        page.wait_for_timeout(50)
    while page.evaluate(LACKING):
        page.wait_for_timeout(20)
    everything = 1000 * (time.perf_counter() - start)
    page.close()
    return paint, in_view, everything


def browser(url: str, what: str, times: int = 1) -> None:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        print("no browser: drawing times left out")
        return
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        seen = [opened(chromium, url) for _ in range(times)]
        chromium.close()
    paint, in_view, everything = (statistics.median(column) for column in zip(*seen, strict=True))
    print(f"browser, {what}, median of {times}: first paint {paint:.0f} ms, all in view {in_view:.0f} ms, "
          f"all of the page, scrolled through, {everything:.0f} ms")  # fmt: skip


def another_run_ends(engine: Engine) -> None:
    """So that everything is fitted anew that rests on it."""
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sweeper_runs SET ended_at = ended_at + 1 WHERE number = 3")


def main(trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = new_engine(Path(folder))
        scaled.write(engine, trials, points=30, promotions=2)
        with served(app_over(engine)) as url:
            browser(url, "nothing fitted yet")
        with served(app_over(engine)) as url, httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            timed(client, PAGE)
            time.sleep(5)  # what the page has had prepared
            for key in PLOTS:
                timed(client, f"{PAGE}/figures/{key}")
            timed(client, f"{PAGE}/laws")
            timed(client, f"{PAGE}/bowls.csv")
            browser(url, "fits kept", times=5)
            another_run_ends(engine)
            timed(client, f"{PAGE}/figures/bowls")
            timed(client, f"{PAGE}/figures/rate")
            another_run_ends(engine)
            browser(url, "after a run has ended")
        engine.dispose()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3_000)
