"""Which windows of a stream are scored or trained on, and which of their targets.

Shape key: T targets a window, which is T + 1 tokens; N windows; D documents.  Targets are counted by the place of the
token before them: target i of the stream is token i + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.config import SHORTEST_TAIL
from trainer.data import DataError

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Windows:
    """N windows in the order of the text; no target counts in two of them."""

    begins: Places
    """Where each begins in the stream. The last tokens of one may lie past the stream's end."""
    low: Places
    """The first target that counts, within its window."""
    high: Places
    """The first target after it that does not."""

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, chosen: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Windows:
        return Windows(self.begins[chosen], self.low[chosen], self.high[chosen])

    @property
    def targets(self) -> int:
        """That count, in all windows."""
        return int((self.high - self.low).sum())

    def stretches(self, seq_len: int) -> Places:
        """(N,) for each window which T targets of the stream hold its first one that counts."""
        return (self.begins + self.low) // seq_len


def scored_windows(
    stream_tokens: int,
    seq_len: int,
    *,
    tokens: int = 0,
    stride: int = 0,
    documents: Places | None = None,
) -> Windows:
    """The windows that score a validation split, read as one stream.

    Without a stride the stream is cut into windows that do not overlap, and what is left at its end does not
    count, as in the baseline. With one, windows advance by it: the first counts whole, later ones with their last
    `stride` targets, and the last reaches back so that the remainder counts too: every target once, with at least
    seq_len - stride tokens of context where the text has them.

    By documents, each document has windows of its own, so that none sees another: the first begins at its
    separator, the rest advance by the stride (seq_len where there is none). What follows the document in its last
    window is not seen, as models look back only, and does not count. A document's last target is the separator
    after it: every target of the stream counts once, also without a stride.

    A part of the targets is the same for every kind: stretches of seq_len, spread evenly over the stream, each
    target with the context that it has in the whole. So kinds differ by their context alone.

    Args:
        stream_tokens: of the validation split.
        seq_len: T.
        tokens: how many targets are wanted, rounded down to whole stretches; 0 is all.
        stride: 0, or at most seq_len.
        documents: (D,) where they begin, ascending; None takes no notice of them.

    Raises:
        DataError: the stream is shorter than one window.
    """
    stretches = (stream_tokens - 1) // seq_len
    if stretches < 1:
        raise DataError(f"data.seq_len is {seq_len}, but the validation split has only {stream_tokens} tokens")
    if stride == 0 and documents is None:
        every = _slide(np.array([0]), np.array([stretches * seq_len]), seq_len, seq_len)
    else:
        begins = np.unique(np.append(0, [] if documents is None else documents)).astype(np.int64)
        targets = np.diff(begins, append=stream_tokens - 1)
        every = _slide(begins[targets > 0], targets[targets > 0], seq_len, stride or seq_len)
    wanted = max(1, tokens // seq_len)
    if tokens == 0 or wanted >= stretches:
        return every
    chosen = np.isin(np.arange(stretches + 1), np.arange(wanted) * stretches // wanted)
    return _cut(every, chosen, seq_len)


def stream_windows(shard_tokens: list[int], seq_len: int) -> Windows:
    """The windows that train on shards of so many tokens each, none of which spans two of them.

    One window a shard is kept back, so that they can all begin later, by less than seq_len.
    """
    counts = np.maximum(0, (np.array(shard_tokens) - 1) // seq_len - 1)
    starts = np.cumsum(shard_tokens) - shard_tokens
    shard = np.repeat(np.arange(len(counts)), counts)
    begins = starts[shard] + seq_len * _number_within(counts)
    return Windows(begins.astype(np.int64), np.zeros_like(begins), np.full_like(begins, seq_len))


def document_windows(stream_tokens: int, seq_len: int, documents: Places) -> Windows:
    """The windows that train on a stream document by document: consecutive, none reaches over a document's end.

    A document's targets are its tokens and the separator after it, which says that it ends; the last one has none. A
    last window with fewer than seq_len / SHORTEST_TAIL targets is left out, unless it is the document's only one.

    Args:
        stream_tokens: of the split.
        seq_len: T.
        documents: (D,) where they begin, ascending.
    """
    begins_D = np.unique(np.append(0, documents)).astype(np.int64)
    targets_D = np.maximum(0, np.diff(begins_D, append=max(0, stream_tokens - 1)))
    whole_D, tail_D = np.divmod(targets_D, seq_len)
    counts_D = whole_D + (tail_D > 0) * ((whole_D == 0) | (tail_D >= seq_len / SHORTEST_TAIL))
    piece = np.repeat(np.arange(len(begins_D)), counts_D)
    before = seq_len * _number_within(counts_D)
    begins = begins_D[piece] + before
    return Windows(begins, np.zeros_like(begins), np.minimum(seq_len, targets_D[piece] - before))


def _number_within(counts: Places) -> Places:
    """0, 1, 2 … of as many as each count says, one after another."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _slide(begins_D: Places, targets_D: Places, seq_len: int, stride: int) -> Windows:
    """Windows over pieces of text, each of so many targets, at least one, from where it begins."""
    room_D = np.maximum(0, targets_D - seq_len)
    counts_D = 1 - (-room_D // stride)
    piece = np.repeat(np.arange(len(begins_D)), counts_D)
    number = _number_within(counts_D)
    offset = np.minimum(number * stride, room_D[piece])
    counted_before = np.where(number == 0, 0, seq_len + (number - 1) * stride)
    counted_after = np.minimum(seq_len + number * stride, targets_D[piece])
    return Windows(begins_D[piece] + offset, counted_before - offset, counted_after - offset)


def _cut(every: Windows, chosen: npt.NDArray[np.bool_], seq_len: int) -> Windows:
    """The windows with targets in the chosen stretches; the others of their targets do not count."""
    first = (every.begins + every.low) // seq_len
    last = (every.begins + every.high - 1) // seq_len  # the same or the next, as a window is no longer than a stretch
    low = np.where(chosen[first], every.low, (first + 1) * seq_len - every.begins)
    high = np.where(chosen[last], every.high, last * seq_len - every.begins)
    return Windows(every.begins, low, high)[low < high]
