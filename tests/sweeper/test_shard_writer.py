"""A writer that takes over from another writes what that one would have."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.shard_writer import ShardWriter, WriterState, text_bytes

SPACES = np.array([[0, 1, 2, 3], [0, 1, 0, 1], [1, 0, 0, 0]], dtype=np.int16)  # 0 is the separator


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=8),
    limit=st.integers(1, 10),
    taken_over=st.sets(st.integers(0, 7)),
    lost=st.lists(st.integers(0, 3), max_size=15),
)
def test_any_relay_of_writers_makes_the_shards_of_one(parts, limit, taken_over, lost):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as many:
        writer = ShardWriter(Path(one), "train", SPACES, 0, limit)
        relay = ShardWriter(Path(many), "train", SPACES, 0, limit)
        for number, part in enumerate(parts):
            writer.append(np.array(part, dtype=np.uint16))
            relay.append(np.array(part, dtype=np.uint16))
            if number in taken_over:
                state = WriterState.model_validate_json(relay.state().model_dump_json())
                with relay:  # it is killed after more than its state tells of
                    relay.append(np.array(lost, dtype=np.uint16))
                relay = ShardWriter(Path(many), "train", SPACES, 0, limit, state)
        records = writer.finish()

        assert relay.finish() == records
        assert [path.read_bytes() for path in sorted(Path(many).iterdir())] == [
            path.read_bytes() for path in sorted(Path(one).iterdir())
        ]
    tokens = np.array([token for part in parts for token in part], dtype=np.uint16)
    assert sum(record.tokens for record in records) == len(tokens)
    assert sum(record.bytes for record in records) == text_bytes(SPACES, tokens, 0)
