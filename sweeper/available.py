"""What a prepared folder has for a run: windows, positions, targets and steps, before anything is started."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sweeper.errors import SweeperError
from sweeper.shards import Manifest, Split, load_manifest, read_shard
from trainer.config import DataConfig, WindowCount, document_windows, stream_windows, whole_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Available:
    """One pass over a split, from `start_window` of the order on."""

    count: WindowCount
    """Of the whole split."""
    windows: int
    """Those that are left from data.start_window on."""
    positions: int
    """That they hold: what budget.tokens counts, filler of short windows included."""
    targets: int
    """That they hold; where start_window cuts a pass of documents in two, the average of so many windows."""
    steps: int
    """Whole optimiser steps that they last for."""


def available(folder: Path, data: DataConfig) -> Available:
    """What a run with these data settings finds before it begins to repeat; `data.path` is not looked at.

    A stream is counted from the manifest alone. For documents their separators are looked for in the shards, at about
    a thousand million tokens a second from memory.

    Raises:
        SweeperError: no prepared folder, or one without such a split.
    """
    manifest = load_manifest(folder)
    shards = [shard.tokens for shard in manifest.shards if shard.split == data.split]
    if not shards:
        hint = "; prepare it with --reserve-tokens" if data.split == "reserve" else ""
        raise SweeperError(f"{folder} has no split {data.split!r}{hint}")
    if data.windows == "documents":
        lengths = document_lengths(folder, manifest, data.split)
        count = document_windows(lengths.items(), data.seq_len)
    else:
        count = stream_windows(shards, data.seq_len)
    left = max(0, count.windows - data.start_window)
    return Available(
        count=count,
        windows=left,
        positions=left * data.seq_len,
        targets=count.targets * left // max(1, count.windows),
        steps=whole_steps(count.windows, data),
    )


def require_tokens(folder: Path, data: DataConfig, tokens: int) -> Available:
    """What there is, where a run of so many positions finds its data without repeating any.

    Raises:
        SweeperError: it does not, with what there is; or as `available`.
    """
    found = available(folder, data)
    if -(-tokens // data.batch_tokens) > found.steps:
        after = f" after the first {data.start_window:,}" if data.start_window else ""
        raise SweeperError(
            f"the run wants {tokens:,} tokens ({-(-tokens // data.batch_tokens):,} steps of {data.batch_tokens:,}), "
            f"but the {data.split} split of {folder} has {found.windows:,} windows of {data.seq_len:,}{after}: "
            f"{found.positions:,} tokens, {found.steps:,} steps; lower the budget, or prepare more text"
        )
    return found


def document_lengths(folder: Path, manifest: Manifest, split: Split) -> Counter[int]:
    """How many documents of a split have how many targets: their tokens, and the separator after them."""
    lengths: Counter[int] = Counter()
    begin = 0  # of the document that is being read
    offset = 0
    for shard in manifest.shards:
        if shard.split != split:
            continue
        tokens = read_shard(folder / shard.file)
        found = np.flatnonzero(tokens == manifest.separator) + offset
        edges = np.append(begin, found)
        lengths.update(_counted(np.diff(edges)))
        begin = int(edges[-1])
        offset += len(tokens)
    lengths.update(_counted(np.array([offset - 1 - begin])))
    return lengths


def _counted(lengths: np.ndarray[tuple[int], np.dtype[np.int64]]) -> dict[int, int]:
    values, counts = np.unique(lengths[lengths > 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
