"""The page of a full run whose values a law gave: candidates, what was foretold, and what it came to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sweeper.promote import promote
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


def test_the_page_shows_the_candidates_and_the_forecast_and_then_the_truth(service: Service) -> None:
    lawful.sweep(service)
    made = promote(service, lawful.NAME, PromoteRequest())
    grant = talk.take(service, kind="promotion")
    batch, rate = grant.config["data"]["batch_tokens"], grant.config["optim"]["matrix_lr"]
    score = lawful.loss(batch, made.tokens, rate)
    talk.say(service, grant, talk.start(), lawful.evaluation(score, batch, made.tokens))
    path = f"/studies/{lawful.NAME}/promotions/0"
    taken = made.transfer.taken if made.transfer else None
    assert taken is not None and taken.predicted is not None
    with served(app_over(service.engine)) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        page = client.get(path).text
        assert "Whose values" in page and "fitted law <span" in page
        assert f"Foretold val_bpb: {taken.predicted.words()}" in page and "it came to" not in page
        assert made.transfer is not None and made.transfer.data_hash[:12] in page
        assert "exponent of batch_tokens 0.4" in page
        (drawn,) = [
            trace
            for trace in client.get(f"{path}/figures").json()["figures"]["forecast"]["data"]
            if trace["name"].startswith("foretold")
        ]
        assert drawn["x"] == [made.tokens]
        assert drawn["y"][0] == pytest.approx(2 * taken.predicted.value, abs=1e-4), "nats a token"

    said = [lawful.outcome(score, batch, made.tokens), lawful.end(batch, made.tokens)]
    talk.say(service, grant, *said, first=2)
    with served(app_over(service.engine)) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        assert f"it came to {score:.4f}, inside the 95 %" in client.get(path).text
        listed = client.get(f"/studies/{lawful.NAME}").text
        assert "by the fitted law" in listed and f"foretold {taken.predicted.words()}" in listed
