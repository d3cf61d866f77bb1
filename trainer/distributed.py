"""Several devices for one run, one process each, as torchrun starts them: what the processes say to each other.

Every rank keeps the whole model, optimiser state and data position, and computes its share of each step. What the
mathematics needs goes over the devices (NCCL, gloo off CUDA); what the ranks must agree on goes over the hosts
(gloo), so that no device's queue is drained for it. Rank 0 alone speaks and writes.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist  # part of `import torch` itself: nothing more is loaded for it

from trainer.config import ConfigError

T = TypeVar("T")
PATIENCE = timedelta(minutes=5)
"""After which a rank that waits for another gives up. A compilation or a checkpoint that keeps one rank alone takes
less; a rank that died is noticed at once, by its closed connections or by torchrun, so this bounds true hangs only."""
IDLE = timedelta(days=365)
"""Wait for the next request of `serve`, which may not come for as long as the owner likes."""


class Group:
    """The processes of one run; this class is the group of one, whose operations do nothing."""

    rank = 0
    size = 1

    def check(self, device: torch.device) -> None:
        """Raise ConfigError if the group cannot work on devices of this type."""

    def largest(self, *values: float) -> list[float]:
        """The largest of each value over the ranks. Waits for them, but not for any device."""
        return list(values)

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, in one exchange; one dtype, the same shapes everywhere."""

    def gather(self, tensors: list[Tensor]) -> list[Tensor]:
        """Each (…) as (size, …) with those of all ranks, in one exchange; one dtype, the same shapes everywhere."""
        return [tensor[None] for tensor in tensors]

    def everyone(self, value: T) -> list[T]:
        """Each rank's value, on every rank, by rank; over the hosts, so tensors among them must be of the CPU."""
        return [value]

    def together(self, action: Callable[[], T], failures: tuple[type[Exception], ...]) -> T:
        """What `action` returns; if one of `failures` is raised on any rank, it is raised on all of them."""
        return action()

    def share(self, items: Iterator[Any]) -> Iterator[Any]:
        """Rank 0's items, on every rank; those of the others are not looked at."""
        return items


ALONE = Group()


class Ranks(Group):
    """The processes that one torchrun started."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._device_types = {"cpu"}
        if torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", self.size)):
            self._device_types.add("cuda")
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl" if "cuda" in self._device_types else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        self._requests = dist.new_group(backend="gloo", timeout=IDLE)

    def check(self, device: torch.device) -> None:
        if device.type not in self._device_types:
            raise ConfigError(
                f"{self.size} processes share this run, but there are not as many {device.type} devices for them "
                f"(torch sees {torch.cuda.device_count()} of CUDA); start fewer, or set runtime.device to 'cpu'"
            )

    def largest(self, *values: float) -> list[float]:
        agreed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        found: list[float] = agreed.tolist()
        return found

    def average(self, tensors: list[Tensor]) -> None:
        flat = _flat(tensors)
        dist.all_reduce(flat)
        flat /= self.size
        torch._foreach_copy_(tensors, _like(tensors, flat[None], ()))

    def gather(self, tensors: list[Tensor]) -> list[Tensor]:
        flat = _flat(tensors)
        gathered = flat.new_empty((self.size, flat.numel()))
        # Not into one tensor: the name of that call is another before and after torch 2.13.
        dist.all_gather(list(gathered), flat)
        return _like(tensors, gathered, (self.size,))

    def everyone(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def together(self, action: Callable[[], T], failures: tuple[type[Exception], ...]) -> T:
        result, error = None, None
        try:
            result = action()
        except failures as raised:
            error = raised
        for found in self.everyone(error):
            if found is not None:
                raise found
        return result  # type: ignore[return-value]  # no error, so `action` has returned it

    def share(self, items: Iterator[Any]) -> Iterator[Any]:
        if self.rank == 0:
            for item in items:
                self._tell((item,))
                yield item
            self._tell(None)
        else:
            while (told := self._tell(None)) is not None:
                yield told[0]

    def leave(self) -> None:
        """End the group, together: who leaves early breaks the connections of those still at work."""
        self.largest(0.0)
        dist.destroy_process_group()
        # Its threads end with the last reference, and must do so before the interpreter does.
        del self._requests

    def _tell(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        told = [value]
        dist.broadcast_object_list(told, src=0, group=self._requests)
        return told[0]


@contextmanager
def joined() -> Iterator[Group]:
    """The group that this process belongs to for the block: as torchrun's environment says, else of itself alone.

    Where there are others, an exception that leaves the block ends the process on the spot.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    try:
        ranks = Ranks()
        yield ranks
        ranks.leave()
    except BaseException:  # noqa: BLE001 - the others may wait in an exchange, and an orderly exit would wait for them
        traceback.print_exc()
        os._exit(1)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _like(tensors: list[Tensor], flat_RN: Tensor, lead: tuple[int, ...]) -> list[Tensor]:
    """Views of the rows of `flat_RN` in the tensors' shapes, each after the axes `lead`."""
    parts = torch.split(flat_RN, [tensor.numel() for tensor in tensors], dim=1)
    return [part.reshape((*lead, *tensor.shape)) for part, tensor in zip(parts, tensors, strict=True)]
