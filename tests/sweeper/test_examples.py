"""The packaged studies of real runs: from the wheel's files to laws and plans, offline."""

from __future__ import annotations

import json

import pytest

from sweeper import archive, examples
from sweeper.errors import SweeperError

LADDER = "ladder-h200"
WORDS = {"sample", "log"}


def test_they_are_listed_with_a_sentence_each_and_nothing_is_stored(say, tmp_path):
    told = say("example")
    for example in examples.packaged():
        assert example.name in told and example.description.split()[0] in told
        assert "does not ship" in example.description
    assert {example.name for example in examples.packaged()} >= {LADDER, "grid-h200"}
    assert not (tmp_path / "home").exists()


def test_one_is_taken_once_and_its_laws_and_plan_are_there(say):
    first = say("example", LADDER)
    assert "42 trials stored" in first
    for command in ("sweeper serve", f"sweeper fit --study {LADDER}", f"sweeper plan --study {LADDER} --hours 0.03"):
        assert command in first
    assert "is there already" in say("example", LADDER)

    told = json.loads(say("fit", "--study", LADDER, "--json"))
    assert len(told["cells"]) == 9
    assert "fitted law" in say("plan", "--study", LADDER, "--hours", "0.03")


def test_the_measured_grid_is_taken_and_fitted_too(say):
    assert "24 trials stored" in say("example", "grid-h200")
    assert "24 scores of 24 trials" in say("fit", "--study", "grid-h200")


def test_an_unknown_one_is_refused_with_the_known(say):
    with pytest.raises(SweeperError, match=f"no example 'lader-h200'; there are .*{LADDER}.*did you mean '{LADDER}'"):
        say("example", "lader-h200")


@pytest.mark.parametrize("example", examples.packaged(), ids=lambda example: example.name)
def test_they_hold_numbers_and_no_text(example):
    _, runs = archive.read(example.path)
    assert len(runs) == example.runs
    assert example.path.stat().st_size < 150_000
    for run in runs:
        assert not WORDS & {event["event"] for event in run.events}
        assert not run.config["data"]["path"] and not run.config["checkpoint"]["path"]


def test_the_ladder_has_the_outcomes_of_its_budgets_and_the_grid_is_what_it_foretells():
    ladder, grid = (archive.read(examples.find(name).path)[1] for name in (LADDER, "grid-h200"))
    for run in ladder:
        budgets = [event["budget"] for event in run.events if event["event"] == "outcome"]
        assert budgets == [3.0, 9.0, None]
    assert min(run.score for run in grid if run.score) < min(run.score for run in ladder if run.score)
    assert {run.parameters for run in ladder} == {run.parameters for run in grid}
