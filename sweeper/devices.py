"""Which devices this machine has, asked of nvidia-smi: no torch in the worker, none in the service.

A Mac's GPU (`mps`) is taken only where it is asked for, and whether there is one is asked of torch in a process of its
own.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sweeper.errors import SweeperError

Wish = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU that CUDA would show to a process started now."""

    visible: str
    """What CUDA_VISIBLE_DEVICES must say for a process to see this one alone: an index or a UUID."""
    name: str
    memory_bytes: int
    driver: str


def gpus() -> list[Gpu]:
    """The visible GPUs in CUDA's order; CUDA_VISIBLE_DEVICES is obeyed. Empty without a working nvidia-smi."""
    found = _nvidia_smi()
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None or not found:
        return list(found.values())
    chosen = []
    for entry in (part.strip() for part in wanted.split(",")):
        if entry in ("", "-1"):
            break  # CUDA stops reading at the first invalid entry
        # A MIG slice or an abbreviated UUID is visible to CUDA though this list does not name it.
        known = found.get(entry) or next(iter(found.values()))
        chosen.append(Gpu(visible=entry, name=known.name, memory_bytes=known.memory_bytes, driver=known.driver))
    return chosen


def _nvidia_smi() -> dict[str, Gpu]:
    """Every GPU of the machine, by index and in its order."""
    if shutil.which("nvidia-smi") is None:
        return {}
    query = ["nvidia-smi", "--query-gpu=index,memory.total,driver_version,name", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}  # the tool is installed and no GPU answers: a machine without GPU, which doctor reports
    found = {}
    for line in answer.splitlines():
        parts = [part.strip() for part in line.split(",", 3)]
        if len(parts) == 4 and parts[0].isdigit():
            index, memory, driver, name = parts
            # Some devices share the host's memory and say [N/A].
            mebibytes = int(memory) if memory.isdigit() else 0
            found[index] = Gpu(visible=index, name=name, memory_bytes=mebibytes * 2**20, driver=driver)
    return found


def profile() -> Literal["gpu", "cpu"]:
    """The study profile for this machine."""
    return "gpu" if gpus() else "cpu"


def torch_sees_mps() -> bool:
    """Whether torch finds a Mac's GPU here; takes as long as it takes to import torch."""
    question = "import torch; raise SystemExit(not torch.backends.mps.is_available())"
    try:
        return subprocess.run([sys.executable, "-c", question], capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def assign(wish: Wish, workers: int | None, sees_mps: Callable[[], bool] = torch_sees_mps) -> list[str]:
    """A device for each worker, such as ["cuda:0", "cuda:1"] or ["cpu"].

    Args:
        wish: `auto` takes the NVIDIA GPUs where there are any.
        workers: how many; None is one per GPU, or one on the CPU. More workers than GPUs share them.
        sees_mps: asked where `mps` is wished for.

    Raises:
        SweeperError: `cuda` was asked for and no GPU is visible, `mps` and torch has none, or fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise SweeperError(f"--workers must be at least 1, got {workers}")
    if wish == "mps":
        if not sees_mps():
            raise SweeperError(
                "--device mps needs a Mac with Apple silicon and a torch that sees its GPU, and torch sees none here; "
                "use --device cpu, or see what `sweeper doctor` says"
            )
        return ["mps"] * (workers or 1)
    count = len(gpus()) if wish != "cpu" else 0
    if wish == "cuda" and not count:
        raise SweeperError(
            "--device cuda needs an NVIDIA GPU and nvidia-smi shows none; use --device cpu, "
            "or see what `sweeper doctor` says"
        )
    if not count:
        return ["cpu"] * (workers or 1)
    return [f"cuda:{index % count}" for index in range(workers or count)]


def resolve(device: str, sees_mps: Callable[[], bool] = torch_sees_mps) -> str:
    """The one device of a worker that was started with `device`: auto, cpu, cuda, cuda:N or mps."""
    if device in ("auto", "cpu", "cuda", "mps"):
        return assign(device, 1, sees_mps)[0]  # type: ignore[arg-type]  # narrowed by the line above
    match = re.fullmatch(r"cuda:(\d+)", device)
    if match is None:
        raise SweeperError(f"--device must be auto, cpu, cuda, cuda:N or mps, got {device!r}")
    count = len(gpus())
    if int(match.group(1)) >= count:
        raise SweeperError(f"--device {device} does not exist: nvidia-smi shows {count} GPU(s)")
    return device


def environment(device: str, count: int = 1) -> dict[str, str]:
    """The variables under which a trainer sees `count` devices from `device` on, and no other."""
    if not device.startswith("cuda:"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    first = int(device.removeprefix("cuda:"))
    visible = gpus()
    names = [visible[i].visible if i < len(visible) else str(i) for i in range(first, first + count)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names)}


def check_several(device: str, count: int) -> None:
    """Raises SweeperError where there are not `count` GPUs from `device` on; CPUs may be as many as you like."""
    if device == "mps":
        if count > 1:
            raise SweeperError(f"--gpus {count}: a Mac has one GPU, and runs are not shared with it")
        return
    if device != "cpu" and int(device.removeprefix("cuda:")) + count > len(gpus()):
        raise SweeperError(f"--gpus {count} needs as many GPUs from {device} on; nvidia-smi shows {len(gpus())}")


def describe(device: str) -> str:
    """The name of `device` for people, such as `NVIDIA H200` or the processor's model; of a Mac's GPU, too."""
    if device.startswith("cuda:"):
        index = int(device.removeprefix("cuda:"))
        visible = gpus()
        return visible[index].name if index < len(visible) else device
    information = Path("/proc/cpuinfo")
    if information.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", information.read_text(errors="replace"), re.MULTILINE)
        if match:
            return match.group(1).strip()
    return platform.processor() or platform.machine()
