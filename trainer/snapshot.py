"""The state of a training on its device: remembered, and put back in place."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch

from trainer import checkpoint
from trainer.batches import TrainBatches
from trainer.models.base import LanguageModel
from trainer.optim import Optimizers


def keep(
    model: LanguageModel, optimizers: Optimizers, batches: TrainBatches, device: torch.device
) -> Callable[[], None]:
    """Remember weights, moments, the place in the data and the random state, for as long as the result is held.

    Returns:
        Puts all of it back, to the bit and in the memory that it has now: graphs and optimisers see new values and
        nothing else. Call it between steps, when there are no gradients.
    """
    live = list(chain(model.parameters(), model.buffers()))
    kept = [tensor.detach().clone() for tensor in live]
    put_moments_back = optimizers.keep()
    position, random = batches.position, checkpoint.random_state(device)

    @torch.no_grad()
    def put_back() -> None:
        for tensor, value in zip(live, kept, strict=True):
            tensor.copy_(value)
        put_moments_back()
        batches.position = position
        checkpoint.restore_random_state(random, device)

    return put_back
