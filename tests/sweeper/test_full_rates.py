"""From a config to rates over tokens: as the trainer runs them."""

from __future__ import annotations

import numpy as np
import pytest

from sweeper.full_rates import first_fall, law_ends, rates_of, warm_up_ends
from sweeper.scaling.rates import Rates
from tests.dashboard.planned import PHASES
from trainer.config import PhaseConfig, ScheduleConfig
from trainer.schedule import lr_factor

BATCH = 65_536


def at(rates: Rates, tokens: float) -> float:
    return float(np.interp(tokens, rates.step_k, rates.rate_k))


def test_one_schedule_is_the_trainers() -> None:
    schedule = {"warmup": 0.05, "warmdown": 0.3, "final_lr": 0.1}
    rates = rates_of({"schedule": schedule}, 1000.0)
    assert isinstance(rates, Rates)
    for progress in (0.01, 0.04, 0.2, 0.69, 0.8, 0.99):
        assert at(rates, 1000 * progress) == pytest.approx(lr_factor(ScheduleConfig(**schedule), progress))
    assert first_fall(rates) == pytest.approx(700) and warm_up_ends({"schedule": schedule}, 1000.0) == 50


def test_phases_are_the_trainers_and_begin_where_it_begins_them() -> None:
    config = {"data": {"batch_tokens": BATCH}, "plan": {"phases": PHASES}}
    rates = rates_of(config, 1.0)
    assert isinstance(rates, Rates)
    begin = 0
    for said in PHASES:
        phase = PhaseConfig(**said)
        for progress in (0.005, 0.3, 0.8):
            place = begin + progress * said["tokens"]
            assert at(rates, place) == pytest.approx(phase.lr_factor(progress), abs=2e-3), (said["name"], progress)
        begin += said["tokens"]
    assert first_fall(rates) == pytest.approx(1.5e9, abs=BATCH)
    assert warm_up_ends(config, 1.0) == pytest.approx(15e6, abs=BATCH)


def test_one_law_ends_where_the_loss_becomes_another() -> None:
    config = {"data": {"batch_tokens": BATCH}, "plan": {"phases": PHASES}}
    end, why = law_ends(config)
    assert end == pytest.approx(3e9, abs=BATCH) and why == "instruct is of kind instruct: another loss"
    other = [PHASES[0], PHASES[1] | {"data": "elsewhere"}]
    assert law_ends({"data": {"batch_tokens": BATCH}, "plan": {"phases": other}})[1].endswith("trains on other data")
    assert law_ends({"schedule": {}}) == (None, "")


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"command": {}}, "a command"), ({"schedule": {"warmup": 0.7, "warmdown": 0.5}}, "overlap")],
)
def test_what_is_not_known_is_said(config: dict[str, object], reason: str) -> None:
    found = rates_of(config, 1000.0)
    assert isinstance(found, str) and reason in found
