"""Full runs by hours: the tokens that they hold on a device whose speed is known, as in `sweeper plan --hours`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.commands import promoting
from sweeper.errors import SweeperError
from sweeper.promote import promote
from sweeper.protocol import PromoteRequest, PromotionPlan
from sweeper.results import Results
from sweeper.service import Service
from sweeper.shape import shape_of
from sweeper.throughput import Throughput, store
from tests.sweeper import lawful, talk

HOURS = 0.01
"""At the 500,000 tokens a second of `lawful`: 18 million tokens, 2.2 times a trial's."""


def plan(service: Service, name: str = lawful.NAME, **request: Any) -> PromotionPlan:
    return promote(service, name, PromoteRequest(**request))


def test_hours_become_the_tokens_that_the_trials_device_trains_in_them(swept: Service) -> None:
    made = plan(swept, hours=HOURS, plan_only=True)
    assert made.hours == HOURS
    assert made.tokens == pytest.approx(3600 * HOURS * 5e5, rel=0.03)
    assert made.tokens % made.config["data"]["batch_tokens"] == 0
    assert made.config["budget"]["tokens"] == made.tokens and made.config["budget"].get("seconds") is None
    assert any(
        note.startswith(f"The tokens are those of {HOURS:g} hours at the speed of test processor")
        for note in made.notes
    )
    transfer = made.transfer
    assert transfer is not None and transfer.chosen == "fitted"
    copied = plan(swept, hours=HOURS, by="copied", plan_only=True)
    assert copied.tokens == pytest.approx(made.tokens, rel=0.03)


def test_the_plan_command_and_the_promotion_agree_on_hours(swept: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_HOME", str(swept.settings.home))
    monkeypatch.delenv("SWEEPER_STORAGE", raising=False)
    told = CliRunner().invoke(app, ["plan", "--study", lawful.NAME, "--hours", str(HOURS), "--json"])
    assert told.exit_code == 0, told.output
    fitted = json.loads(told.stdout)["candidates"][2]["values"]
    made = plan(swept, hours=HOURS, plan_only=True)
    assert made.config["optim"]["matrix_lr"] == pytest.approx(fitted["learning_rate"])
    assert made.config["data"]["batch_tokens"] == fitted["batch_tokens"]
    assert fitted["tokens"] - fitted["batch_tokens"] <= made.tokens <= fitted["tokens"]


def test_hours_of_a_named_device_are_those_that_bench_measured_there(swept: Service) -> None:
    config = talk.runs(swept)[0].config
    with swept.write() as session:
        for batch in (4096, 8192):
            shape = shape_of({**config, "data": {**config["data"], "batch_tokens": batch}})
            measured = Throughput(
                device_name="Fast Card 9", shape=shape, tokens_per_second=5e6, seconds=5.0, setup_seconds=None,
                peak_memory_bytes=0, source="bench", measured_at=1.0,
            )  # fmt: skip
            store(session, measured)
    made = plan(swept, hours=HOURS, gpu="fast card", by="copied", plan_only=True)
    assert made.tokens == pytest.approx(10 * plan(swept, hours=HOURS, by="copied", plan_only=True).tokens, rel=0.03)
    with pytest.raises(SweeperError, match="how fast slow card trains is not known: trials ran on test processor"):
        plan(swept, hours=HOURS, gpu="slow card")


def test_wrong_lengths_are_refused_in_words(swept: Service) -> None:
    with pytest.raises(SweeperError, match="--hours 2 is one length and --tokens 3B is another: say one of the two"):
        plan(swept, hours=2, tokens="3B")
    with pytest.raises(SweeperError, match="--gpu says how fast --hours pass"):
        plan(swept, tokens="3B", gpu="H100")
    with pytest.raises(SweeperError, match="less than one step"):
        plan(swept, hours=1e-9)
    for hours in (0, -1, float("nan")):
        with pytest.raises(ValidationError, match="hours"):
            PromoteRequest(hours=hours)


def test_a_promotion_by_hours_is_the_same_one_when_the_command_comes_again(swept: Service) -> None:
    shown = plan(swept, hours=HOURS, plan_only=True)
    assert shown.transfer is not None
    created = plan(swept, hours=HOURS, trial=shown.trial, by=shown.transfer.chosen, data_hash=shown.transfer.data_hash)
    assert (created.tokens, created.config) == (shown.tokens, shown.config)
    (stored,) = Results(swept.engine).promotions(lawful.NAME)
    summary = {
        "promotions": [
            {"trial": stored.trial, "planned_tokens": 1, "hours": stored.hours, "state": "running", "by": stored.by}
        ]
    }
    assert promoting._unfinished(shown, None, summary) is not None, "whatever its tokens were when it was planned"
    assert promoting._unfinished(plan(swept, hours=2 * HOURS, plan_only=True), None, summary) is None
