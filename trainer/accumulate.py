"""Gradients of one optimiser step in micro-batches that fit the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainer.data import TrainBatches
from trainer.device import is_out_of_memory, release_memory

DEFAULT_MICRO_BATCH_TOKENS = {"cuda": 65_536, "mps": 16_384, "cpu": 8_192}


class OutOfMemory(RuntimeError):
    """Not even one sequence fits."""


class Accumulator:
    """Runs forward and backward over one batch; halves the micro-batch when memory runs out, and goes on.

    The sum over micro-batches is the mean over the batch whatever the split, so halving changes speed alone.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: TrainBatches,
        *,
        sequences: int,
        largest_micro_sequences: int,
        device: torch.device,
        notify: Callable[[str], None],
    ) -> None:
        self._model = model
        self._batches = batches
        self._sequences = sequences
        self._device = device
        self._notify = notify
        self.micro_sequences = largest_divisor(sequences, largest_micro_sequences)

    @property
    def micro_batches(self) -> int:
        return self._sequences // self.micro_sequences

    def run(self) -> Tensor:
        """Leave the gradients of the next batch in the parameters; the mean loss, a scalar on the device.

        Raises:
            OutOfMemory: a single sequence does not fit.
        """
        begin = self._batches.position
        while True:
            try:
                return self._run_once()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                message = str(error).splitlines()[0]
            # Outside the handler: the traceback there keeps the failed graph's memory alive.
            self._batches.position = begin
            self._halve(message)

    def _run_once(self) -> Tensor:
        total = torch.zeros((), device=self._device)
        for _ in range(self.micro_batches):
            inputs, targets = self._batches.take(self.micro_sequences)
            loss = self._model(inputs.to(self._device), targets.to(self._device)) / self.micro_batches
            loss.backward()
            total += loss.detach()
        return total

    def _halve(self, message: str) -> None:
        for parameter in self._model.parameters():
            parameter.grad = None
        release_memory(self._device)
        if self.micro_sequences == 1:
            raise OutOfMemory(f"one sequence does not fit in the memory of this device: {message}")
        before = self.micro_sequences
        self.micro_sequences = largest_divisor(self._sequences, before // 2)
        self._notify(
            f"out of memory with {before} sequences a micro-batch; going on with {self.micro_sequences}, "
            f"{self.micro_batches} micro-batches a step ({message})"
        )


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`, and at least 1."""
    return next(d for d in range(max(1, min(limit, number)), 0, -1) if number % d == 0)
