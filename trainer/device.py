"""The device of a run: choice, name, precision, synchronisation, memory, and what running out of it looks like."""

from __future__ import annotations

import gc
import os
import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainer.config import ConfigError


def choose(wanted: str) -> torch.device:
    """The device for `runtime.device`.

    Raises:
        ConfigError: the wanted device is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available[wanted]:
        raise ConfigError(
            f"runtime.device is {wanted!r}, but torch {torch.__version__} sees no such device here; "
            "use 'auto', or run `sweeper doctor`"
        )
    return torch.device(wanted)


def name(device: torch.device) -> str:
    """What the device calls itself, such as `NVIDIA H200` or the processor's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {torch.get_num_threads()} threads"
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions that a run's numbers may depend on."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def compiled() -> dict[str, Any]:
    """Graphs that this process has compiled so far, and breaks in them: `compiled_graphs` and `graph_breaks`."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # not imported for this: it takes two seconds
    counters: Any = dynamo.counters if dynamo else defaultdict(Counter)
    return {
        "compiled_graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
    }


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled modules run as they were written, for the block: for shapes that take longer to compile than to run."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and to import it takes two seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection for the block: compilation makes millions of objects that stay, and each round of the
    collector looks at all of them (21 s in place of 25 s on an H200's host)."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA, float32 elsewhere; parameters and optimiser state are float32 everywhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@contextmanager
def fast_attention(device: torch.device) -> Iterator[None]:
    """For the block, cuDNN's attention first where it is the faster: on Hopper, 1.5 times as fast as flash."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0):
        kernels = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
        with sdpa_kernel(kernels, set_priority=True):
            yield
    else:
        yield


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def memory_bytes(device: torch.device) -> float:
    """Memory of the device; of the host where the device has none of its own."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return 4.0 * 2**30


def peak_memory_bytes(device: torch.device) -> int:
    """Largest device memory since `reset_peak_memory`; 0 where the device does not say."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def release_memory(device: torch.device) -> None:
    """Hand cached blocks back, so that the next, smaller attempt does not meet the fragments of the last."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out: CUDA has a type for it, the CPU allocator only words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text or "MPS backend out of memory" in text
    )


def start_read(scalar: Tensor) -> Tensor:
    """A copy of `scalar` that the host can read without draining the device's queue, once the step that made
    it is known to be done."""
    if not scalar.is_cuda:
        return scalar
    host = torch.empty(scalar.shape, dtype=scalar.dtype, pin_memory=True)
    return host.copy_(scalar, non_blocking=True)
