"""What the scaling page costs at 3,000 trials: time of each fit's first and later answer, bytes, and paint.

python -m benchmarks.scaling_page [TRIALS]
"""

from __future__ import annotations

import gzip
import shutil
import sys
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

from dashboard.routes.scaling import PLOTS
from tests.dashboard import scaled
from tests.dashboard.conftest import CHROMIUM_ARGUMENTS
from tests.dashboard.serve import app_over, served
from tests.dashboard.synthetic import new_engine

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


def browser(url: str, what: str) -> None:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        print("no browser: drawing times left out")
        return
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        start = time.perf_counter()
        page.goto(url + PAGE)
        page.wait_for_selector("[data-figure=bowls][data-drawn]", state="attached")
        bowls = time.perf_counter() - start
        page.wait_for_selector("[data-figure=rate][data-drawn]", state="attached")
        both = time.perf_counter() - start
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN")
        print(f"browser, {what}: first paint {paint:.0f} ms, bowls drawn {1000 * bowls:.0f} ms, "
              f"everything in view {1000 * both:.0f} ms")  # fmt: skip
        chromium.close()


def main(trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = new_engine(Path(folder))
        scaled.write(engine, trials, points=30, promotions=2)
        with served(app_over(engine)) as url:
            browser(url, "nothing fitted yet")
        with served(app_over(engine)) as url, httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            timed(client, PAGE)
            for key in PLOTS:
                timed(client, f"{PAGE}/figures/{key}")
            timed(client, f"{PAGE}/laws")
            timed(client, f"{PAGE}/bowls.csv")
            browser(url, "fits kept")
        engine.dispose()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3_000)
