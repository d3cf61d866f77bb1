"""What the scaling page costs at 3,000 trials: drawing in its three states, time and bytes of each figure's answer.

python -m benchmarks.scaling_page [TRIALS] [OPENINGS]

The server is a process of its own. Drawing is timed in a Chromium that has shown a page of it before: with the fits
kept, right after a run has ended (a new best of its cell, so that the laws are fitted anew; also until the new fits are
drawn), on a server that has just started over a study whose page was opened in an earlier life of it, and over one of
which nothing was ever fitted.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import Engine

from dashboard.routes.scaling import PLOTS
from tests.dashboard import scaled
from tests.dashboard.conftest import CHROMIUM_ARGUMENTS
from tests.dashboard.serve import app_over
from tests.dashboard.synthetic import new_engine

WATCH = """window.drawnAt = {};
new MutationObserver((changes) => {
  for (const { target } of changes) drawnAt[target.dataset.figure] ??= performance.now();
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-drawn"] });"""
LACKING = """[...document.querySelectorAll("[data-figure]")].some(
    (f) => !f.dataset.drawn && (f.querySelector(".empty")?.textContent ?? "Loading…") === "Loading…")"""
CURRENT = """["bowls", "rate"].every((key) => !document.querySelector(`[data-card=${key}] .stale`)?.textContent)"""
PAGE = f"/studies/{scaled.NAME}/scaling"
SETTLED_SECONDS = 6.0
"""After a page was opened: all that it has had prepared is drawn."""
COPY = "INSERT INTO {table} ({names}) SELECT {values} FROM {table} WHERE {of} = {run}"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a server that has answered nothing but whether it is there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.scaling_page", "--serve", str(folder), str(port)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/nothing", trust_env=False)
                break
            except httpx.TransportError:
                assert process.poll() is None, "the server did not start"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def serve(folder: Path, port: int) -> None:
    app = app_over(new_engine(folder))
    app.state.cache = folder / "cache"
    uvicorn.run(app, port=port, log_level="warning", timeout_graceful_shutdown=5)


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


def opened(chromium: Browser, url: str) -> tuple[float, float, float, float]:
    """Milliseconds from the start of navigation to the first paint, until the two figures in view are drawn, until none
    of these is stale, and until all of the page is drawn, scrolling on."""
    page = chromium.new_page(viewport={"width": 1440, "height": 900})
    page.add_init_script(WATCH)
    start = time.perf_counter()
    page.goto(url + PAGE)
    for key in ("bowls", "rate"):
        page.wait_for_selector(f"[data-figure={key}][data-drawn]", state="attached")
    page.evaluate(f"window.wasStale = !({CURRENT})")
    in_view = page.evaluate("Math.max(drawnAt.bowls, drawnAt.rate)")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN")
    while not page.evaluate(CURRENT):
        page.wait_for_timeout(20)
    current = max(in_view, page.evaluate("performance.now()") if page.evaluate("window.wasStale") else in_view)
    while not page.evaluate("(scrollBy(0, 700), scrollY + innerHeight >= document.documentElement.scrollHeight - 1)"):
        page.wait_for_timeout(50)
    while page.evaluate(LACKING):
        page.wait_for_timeout(20)
    everything = 1000 * (time.perf_counter() - start)
    page.close()
    return paint, in_view, current, everything


def another_run_ends(engine: Engine, number: int) -> None:
    """A run a little better than the best of all, as if it had just ended."""
    tables = (
        ("sweeper_runs", "id", {"id": "(SELECT max(id) + 1 FROM sweeper_runs)", "number": str(number),
                                "score": "score - 0.001"}),
        ("sweeper_outcomes", "run_id", {"id": "NULL", "run_id": "(SELECT max(id) FROM sweeper_runs)"}),
    )  # fmt: skip
    with engine.begin() as connection:
        best = "SELECT id FROM sweeper_runs WHERE kind = 'trial' ORDER BY score IS NULL, score LIMIT 1"
        run = connection.exec_driver_sql(best).scalar_one()
        for table, of, anew in tables:
            names = [row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
            values = ", ".join(anew.get(name, name) for name in names)
            connection.exec_driver_sql(COPY.format(table=table, names=", ".join(names), values=values, of=of, run=run))


def drawing(chromium: Browser, engine: Engine, folder: Path, trials: int, openings: int) -> dict[str, list[float]]:
    """Medians of the openings in each state."""
    states = ("fits kept", "a run has ended", "service restarted", "never fitted")
    seen: dict[str, list[tuple[float, ...]]] = {state: [] for state in states}
    with served(folder) as url:
        opened(chromium, url)
        time.sleep(SETTLED_SECONDS)
        for number in range(openings):
            seen["fits kept"].append(opened(chromium, url))
            another_run_ends(engine, trials + number)
            seen["a run has ended"].append(opened(chromium, url))
            time.sleep(SETTLED_SECONDS)
    for _ in range(openings):
        with served(folder) as url:
            seen["service restarted"].append(opened(chromium, url))
        shutil.rmtree(folder / "cache", ignore_errors=True)
        with served(folder) as url:
            seen["never fitted"].append(opened(chromium, url))
    return {state: [statistics.median(column) for column in zip(*each, strict=True)] for state, each in seen.items()}


def main(trials: int, openings: int) -> None:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = new_engine(folder)
        scaled.write(engine, trials, points=30, promotions=2)
        with served(folder) as url, httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            timed(client, PAGE)
            time.sleep(SETTLED_SECONDS)
            for key in PLOTS:
                timed(client, f"{PAGE}/figures/{key}")
            timed(client, f"{PAGE}/laws")
            timed(client, f"{PAGE}/bowls.csv")
        if path is None:
            print("no browser: drawing times left out")
        else:
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
                found = drawing(chromium, engine, folder, trials, openings)
                chromium.close()
            print(f"median ms of {openings} openings, load {os.getloadavg()[0]:.1f}")
            print(f"{'':18}first paint, in view, of all runs, whole page")
            for state, columns in found.items():
                print(f"{state:18}" + "".join(f"{value:8.0f}" for value in columns))
            print(json.dumps(found))
        engine.dispose()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("trials", type=int, nargs="?", default=3_000)
        parser.add_argument("openings", type=int, nargs="?", default=9)
        main(**vars(parser.parse_args()))
