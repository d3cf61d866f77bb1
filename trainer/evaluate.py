"""val_loss in nats per token, val_bpb in bits per byte of text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.data import DataError, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a validation found."""

    val_loss: float
    val_bpb: float
    tokens: int
    """Scored target tokens."""


class Validator:
    """Scores a model on fixed windows.

    Args:
        windows: (W, T + 1) tokens; every target is scored once, with the context inside its window.
        token_bytes: (vocab,) bytes of text that each token stands for.
        batch_sequences: windows a forward pass.
        device: of the model.

    Raises:
        DataError: the targets stand for no bytes at all, so that bits per byte mean nothing.
    """

    def __init__(self, windows: Tokens, token_bytes: Tensor, batch_sequences: int, device: torch.device) -> None:
        self._windows = windows
        self._batch_sequences = batch_sequences
        self._device = device
        targets = torch.from_numpy(windows[:, 1:].astype("int64"))
        self._bytes = int(token_bytes[targets].sum())
        self._tokens = targets.numel()
        if self._bytes == 0:
            raise DataError("the validation tokens stand for 0 bytes of text: token_bytes.npy does not fit the shards")

    @torch.no_grad()
    def score(self, model: nn.Module, should_stop: Callable[[], bool]) -> Score | None:
        """The model's score, or None when asked to stop on the way."""
        model.eval()
        nats = torch.zeros((), dtype=torch.float64)
        for begin in range(0, len(self._windows), self._batch_sequences):
            if should_stop():
                model.train()
                return None
            rows = torch.from_numpy(self._windows[begin : begin + self._batch_sequences].astype("int64"))
            rows = rows.to(self._device)
            loss = model(rows[:, :-1], rows[:, 1:])
            nats += loss.cpu().double() * (rows.size(0) * (rows.size(1) - 1))
        model.train()
        return Score(
            val_loss=nats.item() / self._tokens,
            val_bpb=bits_per_byte(nats.item(), self._bytes),
            tokens=self._tokens,
        )


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Total loss in nats over the bytes of text that the targets stand for, in bits."""
    return nats / math.log(2) / text_bytes
