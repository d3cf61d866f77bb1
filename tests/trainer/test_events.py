"""Events on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import events

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(step=st.integers(0, 10**12), seconds=finite, loss=finite, message=st.text())
def test_events_survive_the_wire(step, seconds, loss, message):
    for event in (
        events.Outcome(step=step, tokens=step, seconds=seconds, val_loss=loss, val_bpb=loss, val_tokens=step),
        events.Notice(message=message),
        events.Failure(reason="crash", message=message, traceback=message),
    ):
        line = events.encode(event)
        assert "\n" not in line
        assert events.decode(line) == event


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_stay_off_the_wire(value):
    event = events.Outcome(step=1, tokens=1, seconds=1.0, val_loss=value, val_bpb=1.0, val_tokens=1)
    with pytest.raises(ValueError):
        events.encode(event)


@pytest.mark.parametrize(
    "line",
    ["", "hello", "[1]", '{"event": "party"}', '{"event": "notice"}', '{"event": "notice", "message": NaN}'],
)
def test_lines_that_are_no_events_are_refused(line):
    with pytest.raises(ValueError):
        events.decode(line)


def test_fields_of_a_newer_trainer_are_dropped():
    assert events.decode('{"event": "notice", "message": "hi", "mood": 3}') == events.Notice(message="hi")
