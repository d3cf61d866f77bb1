"""The page of a full run against its schedule-aware bands: drawn, said, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.dashboard.synthetic import Writer
from tests.sweeper import annealed, annealed_rows


@pytest.fixture
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, trust_env=False, timeout=30) as client:
        yield client


def names(client: httpx.Client, path: str) -> dict[str, dict[str, object]]:
    traces = client.get(f"{path}/figures").json()["figures"]["forecast"]["data"]
    return {trace["name"]: trace for trace in traces}


def test_one_that_keeps_to_its_band(writer: Writer, client: httpx.Client) -> None:
    annealed_rows.sweep(writer)
    annealed_rows.full_run(writer, 0, 0.6)
    path = f"/studies/{writer.name}/promotions/0"
    page = client.get(path).text
    assert "Loss against its schedule-aware band" in page and "in its band" in page
    assert "The measured losses keep to the band. Foretold from 50% of the run and 6 earlier runs" in page
    assert "the ends of those runs were foretold with a mean error of" in page
    drawn = names(client, path)
    assert {f"train loss foretold at {share}%" for share in (20, 30, 50)} | {"train loss, means"} <= set(drawn)
    newest, first = drawn["train loss foretold at 50%"], drawn["train loss foretold at 20%"]
    assert newest["x"][-1] == annealed.LONG and first["x"][-1] == 0.3 * annealed.LONG  # type: ignore[index]

    told = client.get(f"/api/v1{path}/forecast").json()
    assert told["state"] == "inside" and told["kind"] == "train loss"
    assert told["band"]["low"][-1] < told["band"]["loss"][-1] < told["band"]["high"][-1]


def test_one_that_left_it(writer: Writer, client: httpx.Client) -> None:
    annealed_rows.sweep(writer)
    annealed_rows.full_run(writer, 0, 0.75, raised=0.12)
    path = f"/studies/{writer.name}/promotions/0"
    page = client.get(path).text
    assert "above its band" in page and "The train loss is above its band since step" in page
    told = client.get(f"/api/v1{path}/forecast").json()
    assert told["state"] == "above" and told["since_step"] >= 0.55 * annealed.LONG / annealed.BATCH


def test_one_without_a_band_says_why_and_shows_the_old_figure(writer: Writer, client: httpx.Client) -> None:
    annealed_rows.full_run(writer, 0, 0.1)
    path = f"/studies/{writer.name}/promotions/0"
    page = client.get(path).text
    assert "Held-out loss against its law" in page and "No band: one is made from 20% of the run on" in page
    assert client.get(f"/api/v1{path}/forecast").json()["band"] is None
    assert client.get(f"/api/v1/studies/{writer.name}/promotions/9/forecast").status_code == 404
