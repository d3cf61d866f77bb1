"""`sweeper fit` and `sweeper plan` from outside, over a database that they only read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper import storage
from sweeper.errors import SweeperError
from tests.dashboard import scaled
from tests.dashboard.synthetic import Writer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    engine = storage.open_engine(f"sqlite:///{folder / 'sweeper.db'}")
    storage.migrate(engine)
    scaled.write(engine, 240, promotions=1)
    Writer(engine, "empty")
    engine.dispose()
    yield folder


def test_fit_prints_laws_with_intervals_and_what_is_not_identified(say):
    told = say("fit", "--study", "laws")
    assert "240" not in told.splitlines()[0].split(" scores")[0], "pruned trials are not counted"
    assert "left out: 18 pruned before the end of its budget" in told
    (line,) = [line for line in told.splitlines() if "exponent of batch_tokens" in line and "learning rate" in line]
    value, low, high = (float(word) for word in line.replace(" to ", " ").split()[5:8])
    assert low < value < high
    assert low - 0.1 < scaled.EXPONENTS["batch_tokens"] < high + 0.1
    assert "noise, standard deviation of repeats: no two complete runs have equal values" in told


def test_fit_as_json_is_strict_and_names_its_conventions(say):
    told = json.loads(say("fit", "--study", "laws", "--json", "--params", "all", "--rate", "adamw"))
    assert told["parameters"] == "all weights"
    assert "AdamW" in told["learning_rate"]
    assert len(told["cells"]) > 20
    assert {one["number"] for one in told["excluded"]} == set(range(12, 240, 13))
    assert all(row["reason"] for row in told["laws"] if row["value"] is None)


def test_fit_of_an_empty_study_gives_reasons_alone(say):
    told = say("fit", "--study", "empty")
    assert "not identified:" in told
    assert "learning rate, law over cells: no two comparable runs have different rates" in told


def test_plan_prints_three_candidates_and_what_to_confirm(say):
    near = say("plan", "--study", "laws", "--tokens", "3B")
    header = next(line for line in near.splitlines() if "copied" in line)
    assert header.split("  ")[-1].strip() == "fitted law"
    assert "predicted val_bpb, 95 %" in near
    assert "3,000,000,000 tokens, " in near
    far = say("plan", "--study", "laws", "--tokens", "1000x")
    assert "confirm the fitted law first" in far
    assert "laws are trusted up to 8" in far
    assert far.count("  run ") == 3


def test_a_plan_copies_the_best_trial_or_a_named_one_and_tells_of_earlier_full_runs(say):
    told = json.loads(say("plan", "--study", "laws", "--tokens", "3B", "--json"))
    named = json.loads(say("plan", "--study", "laws", "--tokens", "3B", "--trial", "8", "--json"))
    assert named["trial"] == 8 != told["trial"]
    for plan in (told, named):
        given, copied = plan["start"]["given"], plan["candidates"][0]["values"]
        assert (copied["learning_rate"], copied["batch_tokens"]) == (given["learning_rate"], given["batch_tokens"])
    (earlier,) = told["earlier"]
    assert (earlier["promotion"], earlier["stored"], earlier["trial"]) == (0, False, 8)
    line = say("plan", "--study", "laws", "--tokens", "3B").splitlines()[-1]
    assert line.startswith("earlier: promotion 0, 1,599,995,904 tokens: ")
    assert f"came to {earlier['actual']:.4f}" in line and "foretold by the trials as they are today" in line
    with pytest.raises(SweeperError, match="trial 12 of study laws is not among the runs that were fitted: pruned at"):
        say("plan", "--study", "laws", "--tokens", "3B", "--trial", "12")


def test_plan_of_hours_converts_them_by_the_devices_speed(say):
    told = json.loads(say("plan", "--study", "laws", "--hours", "2", "--gpu", "h100", "--json"))
    assert told["device"] == "NVIDIA H100"
    values = told["candidates"][0]["values"]
    layers = told["start"]["depth"]
    steps = 7200 / scaled.step_seconds(layers, values["batch_tokens"])
    assert values["steps"] == pytest.approx(steps, rel=0.02)
    assert told["proposed"] == "fitted law"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of the two"),
        (("--tokens", "3B", "--hours", "2"), "one of the two"),
        (("--tokens", "3B", "--gpu", "H100"), "has no effect"),
        (("--hours", "2", "--gpu", "B200"), "how fast B200 trains is not known"),
        (("--tokens", "lots"), "lots"),
    ],
)
def test_a_plan_that_cannot_be_made_says_what_to_do(say, arguments, message):
    with pytest.raises(SweeperError, match=message):
        say("plan", "--study", "laws", *arguments)


def test_an_unknown_study_is_named_with_the_known_ones(say):
    with pytest.raises(SweeperError, match="there is no study nowhere; known: empty, laws"):
        say("fit", "--study", "nowhere")
