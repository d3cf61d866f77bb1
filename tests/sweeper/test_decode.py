"""Ids back to text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper import decode, tokenizers
from sweeper.chatml import ChatTokenizer, question


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_text_comes_back(text):
    ids = tokenizers.load("sweeper1024").encode([text], [True])[0].tolist()
    assert decode.text_of("sweeper1024", ids) == text


def test_markers_and_the_separator_are_written_out_and_strange_ids_marked():
    chat = ChatTokenizer(tokenizers.load("sweeper1024"))
    ids = chat.encode([question("Why?")], [True])[0].tolist()
    said = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert decode.text_of("sweeper1024", ids) == said
    assert decode.text_of("sweeper1024", [1023, 5000]) == f"<|endoftext|>{decode.UNKNOWN}"


@pytest.mark.parametrize("tokenizer", ["sweeper1024", "no such"])
def test_a_sample_gets_its_text_where_the_tokenizer_is_known(tokenizer):
    said = {"event": "sample", "step": 1, "tokens": 2, "prompt_ids": [33], "ids": [33, 34], "prompt": "", "text": ""}
    given_back = decode.with_text(said, tokenizer)
    assert (given_back["text"] != "") == (tokenizer == "sweeper1024")
