"""Numbers and times in words."""

from __future__ import annotations

import pytest

from dashboard import wording


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (4.25, "4.2 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3_725, "1 h 02 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds, text):
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(16384, "16,384"), (0.0325265, "0.03253"), (10_000.0, "10,000"), (1e-8, "1e-08"), (True, "True"), ("on", "on")],
)
def test_values(number, text):
    assert wording.value(number) == text


def test_an_audit_line_is_told_without_row_numbers():
    line = {"run": 7, "kind": "trial", "number": 3, "state": "pruned", "reason": "behind at 30 %"}
    assert wording.detail(line) == "trial 3 · pruned · behind at 30 %"
    assert wording.detail({"trial": 3, "at_percent": 30, "reason": ""}) == "trial 3 · at percent 30"


def test_a_moment_is_utc():
    assert wording.moment(0.0) == "1970-01-01T00:00:00Z"
    assert wording.clock(None) == "–"


def test_a_config_is_shown_without_what_has_no_say():
    config = {
        "model": {"family": "gpt", "vocab_size": 9, "num_layers": 3}, "helix": {"d_model": 4},
        "schedule": {"warmup": 0}, "plan": {"phases": []}, "ladder": {"budgets": []}, "data": {},
    }  # fmt: skip
    assert wording.effective(config).keys() == {"model", "schedule", "data"}
    helix = config | {"model": config["model"] | {"family": "helix"}, "plan": {"phases": [{"name": "p"}]}}
    assert wording.effective(helix).keys() == {"model", "helix", "plan", "data"}
    assert wording.effective(helix)["model"] == {"family": "helix", "vocab_size": 9}
    assert wording.effective({"optim": {}}) == {"optim": {}}
