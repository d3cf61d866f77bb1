"""Which targets the windows score: each once, with the context that was promised."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data import DataError
from trainer.windows import Windows, scored_windows


def scored(windows: Windows) -> list[tuple[int, int]]:
    """(place of the target in the stream, context it has) in the order of the windows."""
    return [
        (begin + target, target + 1)
        for begin, low, high in zip(windows.begins, windows.low, windows.high, strict=True)
        for target in range(low, high)
    ]


def test_plain_windows_cover_the_stream_once():
    assert scored_windows(1003, 100).begins.tolist() == list(range(0, 1000, 100))
    assert scored_windows(1003, 100).targets == 1000
    assert scored_windows(1003, 100, tokens=350).begins.tolist() == [0, 300, 600]
    with pytest.raises(DataError, match="only 50 tokens"):
        scored_windows(50, 100)


def test_sliding_windows_by_hand():
    found = scored_windows(24, 10, stride=4)
    assert (found.begins.tolist(), found.low.tolist(), found.high.tolist()) == (
        [0, 4, 8, 12, 13],
        [0, 6, 6, 6, 9],
        [10] * 5,
    )


def test_windows_of_documents_by_hand():
    found = scored_windows(30, 10, documents=np.array([0, 3, 16, 29]))
    assert (found.begins.tolist(), found.low.tolist(), found.high.tolist()) == (
        [0, 3, 6, 16, 19],  # 3 targets, then 13, then 13; the last separator has none
        [0, 0, 7, 0, 7],
        [3, 10, 10, 10, 10],
    )


@settings(deadline=None, max_examples=200)
@given(data=st.data(), seq_len=st.integers(1, 12), tokens=st.integers(13, 90))
def test_every_target_counts_once_with_its_context(data, seq_len, tokens):
    stride = data.draw(st.integers(0, seq_len))
    documents = data.draw(st.none() | st.sets(st.integers(0, tokens - 1)).map(sorted))
    found = scored_windows(tokens, seq_len, stride=stride, documents=None if documents is None else np.array(documents))

    places = scored(found)
    plain = stride == 0 and documents is None
    assert [place for place, _ in places] == list(range((tokens - 1) // seq_len * seq_len if plain else tokens - 1))
    begins = [0, *(documents or [])]
    for place, context in places:
        there_is = place + 1 - max(begin for begin in begins if begin <= place)
        assert min(there_is, seq_len - (stride or seq_len) + 1) <= context <= min(there_is, seq_len)
    edges = sorted({*begins, tokens - 1})
    room = [max(0, last - first - seq_len) for first, last in itertools.pairwise(edges)]
    step = stride or seq_len
    cost = (tokens - 1) // seq_len if plain else sum(1 + -(-more // step) for more in room)
    assert len(found) == cost


@settings(deadline=None, max_examples=200)
@given(data=st.data(), seq_len=st.integers(2, 9), wanted=st.integers(1, 60))
def test_a_part_is_the_same_targets_for_every_kind_with_the_context_of_the_whole(data, seq_len, wanted):
    stride = data.draw(st.integers(0, seq_len))
    documents = data.draw(st.none() | st.sets(st.integers(0, 60)).map(lambda places: np.array(sorted(places))))
    plain, part, whole = (
        scored(scored_windows(61, seq_len, **kind))
        for kind in (
            {"tokens": wanted},
            {"tokens": wanted, "stride": stride, "documents": documents},
            {"stride": stride, "documents": documents},
        )
    )

    assert set(part) <= set(whole) and len(part) == len(set(part))
    if max(1, wanted // seq_len) < 60 // seq_len:
        assert {place for place, _ in part} == {place for place, _ in plain}
