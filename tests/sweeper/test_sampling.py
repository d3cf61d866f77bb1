"""`sweeper sample` on this side of the trainer: stop strings, tokenizers, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sweeper.commands.sampling import Order, cut, sample, unsure
from sweeper.errors import SweeperError

TEXT = st.text("abc.", max_size=30)


def order(checkpoint: Path, **changes: Any) -> Order:
    values = {
        "checkpoint": checkpoint, "prompt": "x", "tokens": 3, "tokenizer": None, "chat": False, "stops": [],
        "temperature": 0.8, "top_k": 50, "top_p": 0.95, "seed": 0, "device": "cpu",
    }  # fmt: skip
    return Order(**(values | changes))


@given(TEXT, st.lists(st.text("abc.", min_size=1, max_size=3), max_size=3))
def test_a_text_ends_before_the_first_stop_string(text, stops):
    kept, ended = cut(text, stops)
    assert text.startswith(kept)
    assert ended == any(stop in text for stop in stops)
    assert kept == text if not ended else any(text[len(kept) :].startswith(stop) for stop in stops)
    assert not any(stop in kept for stop in stops)


@given(
    st.lists(st.text("abc.", max_size=4), max_size=12), st.lists(st.text("abc.", min_size=1, max_size=4), max_size=3)
)
def test_nothing_is_written_that_a_stop_string_takes_back(pieces, stops):
    whole, _ = cut("".join(pieces), stops)
    text = ""
    for piece in pieces:
        text += piece
        kept, ended = cut(text, stops)
        assert whole.startswith(kept if ended else kept[: len(kept) - unsure(kept, stops)])


def test_half_a_letter_waits_for_the_rest():
    assert unsure("caf\ufffd", []) == 1 and unsure("café", ["feet"]) == 0 and unsure("so fe", ["feet"]) == 2


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(SweeperError, match="there is no checkpoint"):
        sample(order(tmp_path / "nowhere"), Console())


def test_a_run_that_does_not_say_its_tokenizer(tmp_path):
    with pytest.raises(SweeperError, match=r"does not say which tokenizer.*--tokenizer"):
        sample(order(tmp_path), Console())
    (tmp_path / "index.json").write_text(json.dumps({"data": str(tmp_path / "gone"), "checkpoints": []}))
    with pytest.raises(SweeperError, match=r"is not to be had.*--tokenizer"):
        sample(order(tmp_path), Console())


def test_what_the_trainer_refuses_is_the_error(tmp_path):
    with pytest.raises(SweeperError, match=r"could not be sampled: there is no checkpoint"):
        sample(order(tmp_path, tokenizer="sweeper1024"), Console())
