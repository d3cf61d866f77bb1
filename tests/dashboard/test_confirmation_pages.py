"""Confirmation runs on the pages: called by their name, apart from trials, and points of the scaling page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sweeper.confirm import confirm
from sweeper.protocol import PromoteRequest
from sweeper.service import Service
from sweeper.settings import Settings
from tests.dashboard.serve import app_over, served
from tests.sweeper import lawful, talk


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service.open(Settings(home=tmp_path, storage=f"sqlite:///{tmp_path / 'sweeper.db'}", lease_seconds=60.0))
    yield service
    service.close()


def ends(service: Service) -> None:
    """The next run, to its end, by the law of the study."""
    grant = talk.take(service, kind="promotion")
    batch, rate, tokens = (
        grant.config["data"]["batch_tokens"], grant.config["optim"]["matrix_lr"], grant.config["budget"]["tokens"]
    )  # fmt: skip
    score = lawful.loss(batch, tokens, rate)
    said = [lawful.evaluation(score, batch, tokens), lawful.outcome(score, batch, tokens), lawful.end(batch, tokens)]
    talk.say(service, grant, talk.start(), *said)


def numbers(figure: dict[str, Any]) -> dict[int, str]:
    """What is told of each confirmation run that a figure draws."""
    found: dict[int, str] = {}
    for trace in figure["data"]:
        told = trace.get("hovertemplate")
        for place, number in enumerate(trace.get("customdata") or ()):
            if isinstance(number, int) and number < 0:
                assert isinstance(told, list)
                found[number] = told[place]
    return found


def test_confirmation_runs_are_told_from_trials_and_promotions_everywhere(service: Service) -> None:
    lawful.sweep(service)
    confirm(service, lawful.NAME, PromoteRequest(tokens="20x"))
    ends(service)
    ends(service)
    talk.say(service, talk.take(service, kind="promotion"), talk.start(), talk.step(0.3))
    path = f"/studies/{lawful.NAME}"
    with served(app_over(service.engine)) as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        page = client.get(f"{path}/promotions/1").text
        assert "Confirmation run 1" in page and "Promotion 1" not in page
        assert "It runs at the rate of the fitted law, for a full run of 163,840,000 tokens: it ranks no trial" in page
        listed = client.get(path).text
        assert listed.count(">confirmation run</span>") == 3 and "at 0.7 times the rate of the fitted law" in listed
        assert ">confirmation run 2</a>" in listed, "what runs now"
        assert "They rank no trial" in listed
        assert len(client.get(f"{path}/table").json()["rows"]) == 24, "trials alone"
        scaling = client.get(f"{path}/scaling").text
        assert "24 complete trials and 2 confirmation runs (diamonds), which are longer." in scaling
        bowls = client.get(f"{path}/scaling/figures/bowls").json()
        assert "and 2 confirmation runs" in str(bowls)
        told = numbers(bowls["figures"]["bowls"])
        assert told[-1].startswith("confirmation run 0<br>") and told[-2].startswith("confirmation run 1<br>")
        lines = client.get(f"{path}/scaling/bowls.csv").text.splitlines()
        assert sum("confirmation run 1" in line for line in lines) == 1
