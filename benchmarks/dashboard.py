"""What the dashboard costs at 2,000 trials of 30 points: bytes on the wire and time to answer.

python -m benchmarks.dashboard [TRIALS]
"""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

from tests.dashboard.conftest import CHROMIUM_ARGUMENTS
from tests.dashboard.serve import app_over, served
from tests.dashboard.synthetic import Writer, new_engine

STUDY = "/studies/lr-wd-batch"


def build(folder: Path, trials: int) -> Writer:
    writer = Writer(new_engine(folder), trials=trials + 50)
    for number in range(trials - 8):
        writer.trial(number, "pruned" if number % 3 else "complete", progress=None if number % 3 == 0 else 0.6)
    for number in range(trials - 8, trials):
        writer.trial(number, "running")
    return writer


def timed(client: httpx.Client, path: str, repeats: int = 5) -> None:
    seconds, sizes = [], (0, 0)
    for _ in range(repeats):
        start = time.perf_counter()
        with client.stream("GET", path) as answer:
            raw = b"".join(answer.iter_raw())
        seconds.append(time.perf_counter() - start)
        plain = gzip.decompress(raw) if answer.headers.get("content-encoding") == "gzip" else raw
        sizes = (len(raw), len(plain))
    first, later = 1000 * seconds[0], 1000 * statistics.median(seconds[1:])
    print(f"{path.removeprefix(STUDY) or '(page)':44} {sizes[0] / 1e3:9.1f} kB wire {sizes[1] / 1e3:9.1f} kB plain "
          f"{first:8.0f} ms first {later:7.0f} ms later")  # fmt: skip


def stream_delta(url: str, writer: Writer, cursor: str) -> None:
    with (
        httpx.Client(timeout=30, trust_env=False) as client,
        client.stream("GET", f"{url}{STUDY}/stream?after={cursor}") as answer,
    ):
        for line in answer.iter_lines():
            if line.startswith("retry"):
                for run in range(writer_first_running(writer), writer_first_running(writer) + 8):
                    writer.advance(run, step=321, progress=0.64, last_seq=40)
            if line.startswith("data"):
                rows = len(json.loads(line[6:])["rows"])
                print(f"one server-sent delta, {rows} running trials moved: {len(line) / 1e3:.1f} kB")
                return


def writer_first_running(writer: Writer) -> int:
    with writer.engine.connect() as connection:
        found: int = connection.exec_driver_sql("SELECT min(id) FROM sweeper_runs WHERE state = 'running'").scalar_one()
    return found


def browser(url: str) -> None:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        print("no browser: drawing times left out")
        return
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        for attempt in ("cold", "warm"):
            start = time.perf_counter()
            page.goto(url + STUDY)
            page.wait_for_selector("#trials tbody tr")
            table = time.perf_counter() - start
            page.wait_for_selector("[data-figure=curves][data-drawn]", state="attached")
            curves = time.perf_counter() - start
            paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN")
            print(f"browser, {attempt}: first paint {paint:.0f} ms, table {1000 * table:.0f} ms, "
                  f"curves drawn {1000 * curves:.0f} ms")  # fmt: skip
        chromium.close()


def main(trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        writer = build(Path(folder), trials)
        print(f"{trials} trials × 30 points written in {time.perf_counter() - start:.0f} s")
        with served(app_over(writer.engine)) as url, httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            for path in ("", "/table", "/figures/curves", "/figures/curves?metric=train_loss", "/figures/history"):
                timed(client, STUDY + path)
            for path in ("/figures/parameters", "/figures/parallel", "/figures/importances", "/trials/0"):
                timed(client, STUDY + path)
            timed(client, "/api/v1/studies/lr-wd-batch")
            stream_delta(url, writer, client.get(f"{STUDY}/table").json()["cursor"])
            browser(url)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
