"""Gradients of one optimiser step in micro-batches that fit the memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from trainer.batches import TrainBatches
from trainer.config import ConfigError, TrainConfig
from trainer.device import is_out_of_memory, memory_bytes, release_memory
from trainer.distributed import Group
from trainer.helix_sizes import activation_bytes
from trainer.models.loss import WHOLE_VOCAB

SHARE_FOR_ACTIVATIONS = 0.7
"""Share of the device's memory that the first guess at a micro-batch fills; the rest is weights and slack."""
HOST_MICRO_BATCH_TOKENS = 8_192
"""Where the device's memory is the host's own, larger micro-batches only leave the caches."""


class OutOfMemory(RuntimeError):
    """Not even one sequence fits."""


class Accumulator:
    """Runs forward and backward over one batch; halves the micro-batch when memory runs out, and goes on.

    A size found by halving is remembered for all runs of the process that ask for the same `shape`.

    The sum over micro-batches is the mean over the batch whatever the split, so halving changes speed alone. Each
    rank computes its part of the batch, `sequences` of it; if memory runs out on one, all halve and repeat the step.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: TrainBatches,
        *,
        sequences: int,
        largest_micro_sequences: int,
        shape: Hashable,
        device: torch.device,
        group: Group,
        notify: Callable[[str], None],
    ) -> None:
        self._model = model
        self.batches = batches
        self._sequences = sequences
        self._device = device
        self._group = group
        self._notify = notify
        self._shape = shape
        limit = min(largest_micro_sequences, _found_by_halving.get(shape, sequences))
        self.micro_sequences = largest_divisor(sequences, limit)

    @property
    def micro_batches(self) -> int:
        return self._sequences // self.micro_sequences

    def run(self) -> Tensor:
        """Leave the gradients of the next batch in the parameters; the mean loss, a scalar on the device.

        Raises:
            OutOfMemory: a single sequence does not fit.
        """
        begin = self.batches.position
        while (loss := self._attempt(begin)) is None:
            pass
        self.batches.position = begin + self._group.size * self._sequences
        gradients = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        self._group.average([loss, *gradients])
        return loss

    def _attempt(self, begin: int) -> Tensor | None:
        """Gradients and mean loss of this rank's part of the batch at `begin`; None, and a smaller micro-batch for the
        next attempt, when memory ran out on any rank."""
        loss, message = None, ""
        try:
            loss = self._run_once(begin + self._group.rank * self._sequences)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            message = str(error).splitlines()[0]
        # Outside the handler: the traceback there keeps the failed graph's memory alive.
        failed, hopeless = self._group.largest(loss is None, loss is None and self.micro_sequences == 1)
        if failed:
            self._halve(message or "on another device of the run", bool(hopeless))
            return None
        return loss

    def _run_once(self, begin: int) -> Tensor:
        self.batches.position = begin
        total = torch.zeros((), device=self._device)
        for _ in range(self.micro_batches):
            loss = self._model(*self.batches.take(self.micro_sequences)) / self.micro_batches
            loss.backward()
            total += loss.detach()
        return total

    def _halve(self, message: str, hopeless: bool) -> None:
        for parameter in self._model.parameters():
            parameter.grad = None
        release_memory(self._device)
        if hopeless:
            raise OutOfMemory(f"one sequence does not fit in the memory of this device: {message}")
        before = self.micro_sequences
        self.micro_sequences = largest_divisor(self._sequences, before // 2)
        _found_by_halving[self._shape] = self.micro_sequences
        self._notify(
            f"out of memory with {before} sequences a micro-batch; going on with {self.micro_sequences}, "
            f"{self.micro_batches} micro-batches a step ({message})"
        )


_found_by_halving: dict[Hashable, int] = {}


def sequences_a_rank(config: TrainConfig, group: Group) -> int:
    """Sequences of each step that every rank computes.

    Raises:
        ConfigError: the batch cannot be shared evenly.
    """
    data = config.data
    if data.batch_tokens % (data.seq_len * group.size):
        raise ConfigError(
            f"data.batch_tokens is {data.batch_tokens}, {data.batch_tokens // data.seq_len} sequences of data.seq_len "
            f"{data.seq_len}, which {group.size} devices cannot share evenly; make it a multiple of "
            f"{data.seq_len * group.size}, or use another number of devices"
        )
    return data.batch_tokens // data.seq_len // group.size


def largest_micro_sequences(config: TrainConfig, device: torch.device) -> int:
    """The first guess: what the config says, else as many sequences as the memory should hold.

    A layer keeps about 24 bytes a token for each channel of the stream and 4 for each hidden unit, the head 8 for
    each word (measured on an H200: within a tenth for 7 to 9 layers of width 512) unless it goes by chunks. A block
    that runs several times keeps as much each time.
    """
    seq_len, model = config.data.seq_len, config.model
    if config.data.micro_batch_tokens:
        return config.data.micro_batch_tokens // seq_len
    if device.type != "cuda":
        return max(1, HOST_MICRO_BATCH_TOKENS // seq_len)
    if model.family == "helix":
        width, body = config.helix.d_model, activation_bytes(config.helix, config.seeds.topology)
    else:
        width = model.model_dim
        body = len(model.block_order) * (24 * width + 4.0 * int(model.mlp_mult * width))
    head = 8 * (model.vocab_size if model.vocab_size <= WHOLE_VOCAB else width)
    return max(1, int(SHARE_FOR_ACTIVATIONS * memory_bytes(device) / (body + head)) // seq_len)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`, and at least 1."""
    return next(d for d in range(max(1, min(limit, number)), 0, -1) if number % d == 0)
