"""Atomic save, exact resume: model, optimisers, data position, random state, clock."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from trainer.config import TrainConfig

FILE = "checkpoint.pt"


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed; it is left as it is."""


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write beside, flush to the disk, rename: a kill at any moment leaves the old file or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{FILE}.partial"
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / FILE)


def load(folder: Path, device: torch.device, config: dict[str, Any]) -> dict[str, Any] | None:
    """The saved state, or None where there is none.

    Args:
        folder: that `save` was given.
        device: to put tensors on.
        config: TrainConfig.to_dict() of the run that wants to go on.

    Raises:
        CheckpointError: the file is damaged, or belongs to a run with other values.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        saved = TrainConfig.from_dict(state["config"]).to_dict()  # with what earlier versions did not know
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); move it away to start this run afresh, nothing was changed"
        ) from error
    differences = [line for part in _THAT_MUST_AGREE for line in _differences(part, saved, config)]
    if differences:
        raise CheckpointError(
            f"{path} belongs to a run with other values ({'; '.join(differences)}); "
            "give this run another checkpoint folder, or move that one away"
        )
    return state


# Where it runs and how often it saves or validates may change on resume; what is learned may not.
_THAT_MUST_AGREE = ("model", "optim", "schedule", "data", "budget", "export", "seeds")
_MAY_DIFFER = {
    "data.path",
    "data.micro_batch_tokens",
    *(f"export.{name}" for name in ("codec", "prune", "path", "code")),  # what training never sees
}


def _differences(part: str, saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    keys = sorted(saved[part].keys() | wanted[part].keys())
    return [
        f"{part}.{key}: {saved[part].get(key)!r} saved, {wanted[part].get(key)!r} wanted"
        for key in keys
        if f"{part}.{key}" not in _MAY_DIFFER and saved[part].get(key) != wanted[part].get(key)
    ]


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of torch's generators."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
