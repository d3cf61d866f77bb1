"""Which tokens a run trains on.  Standard library only.

A window is T = seq_len inputs and the targets after them.  Positions are inputs, filler included; targets are what the
loss counts.  In a stream every position has its target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.values import require

SHORTEST_TAIL = 4
"""A document's last window is left out where it has fewer targets than seq_len over this, unless it is the only one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which tokens, and how many a step."""

    path: str = ""
    """Folder that `sweeper data prepare` wrote: shards of each split, token_bytes.npy, manifest.json."""
    split: Literal["train", "reserve"] = "train"
    """Shards that are trained on; `reserve` is what `sweeper data prepare --reserve-tokens` kept out of the others."""
    seq_len: int = 1024
    """Tokens a sequence."""
    windows: Literal["stream", "documents"] = "stream"
    """`stream` cuts a shard into windows without regard to documents. In `documents` no window crosses a document's
    end: long ones are cut into consecutive windows, short windows are filled up on the right with what is no target.
    The loss is then the mean over the targets of a micro-batch, whatever their number, and the gradient the mean of
    those of the micro-batches."""
    start_window: int = 0
    """Windows of the order (of seed, split, seq_len and kind) that earlier runs have used: this one goes on there."""
    batch_tokens: int = 524_288
    """Positions per optimiser step; a multiple of seq_len. In `documents` fewer of them are targets."""
    micro_batch_tokens: int = 0
    """Most tokens of one forward and backward pass; 0 chooses by device. Accumulation makes up the rest."""

    def __post_init__(self) -> None:
        require(self.seq_len >= 1, f"data.seq_len must be at least 1, got {self.seq_len}")
        require(
            self.batch_tokens >= self.seq_len and self.batch_tokens % self.seq_len == 0,
            f"data.batch_tokens must be a positive multiple of data.seq_len ({self.seq_len}), got {self.batch_tokens}",
        )
        require(
            self.micro_batch_tokens == 0 or self.micro_batch_tokens >= self.seq_len,
            f"data.micro_batch_tokens must be 0 (choose) or at least data.seq_len ({self.seq_len}), "
            f"got {self.micro_batch_tokens}",
        )
        require(self.start_window >= 0, f"data.start_window must not be negative, got {self.start_window}")
