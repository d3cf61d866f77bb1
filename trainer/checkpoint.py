"""Atomic save, verified when written and when read; exact resume: model, optimisers, data, random state, clock.

A folder holds `step-N.pt` files and `index.json`, which says which of them count, with the SHA-256 of each and what it
is kept as, and which data the run was trained on.  A file is written beside, flushed, read back, renamed; then the
index is, then files that are no longer kept go.  A kill at any moment leaves the state before or the state after.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from trainer.config import CheckpointConfig, TrainConfig

INDEX = "index.json"
FILE = "checkpoint.pt"
"""The one file of a folder that an earlier version wrote, without an index."""
CHUNK_BYTES = 1 << 20


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed; it is left as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of the folder, as the index has it."""

    file: str
    step: int
    bytes: int
    sha256: str
    phase: str = ""
    """Of whose end it is; empty for none."""
    val_bpb: float | None = None
    """Of the last validation before it."""


def save(
    wanted: CheckpointConfig, state: dict[str, Any], *, step: int, phase: str = "", val_bpb: float | None = None
) -> None:
    """Write a checkpoint, and drop those that are no longer to be kept.

    Kept are the last `keep_last`, the ends of phases and, where `keep_best`, that with the lowest val_bpb.

    Raises:
        OSError: the disk is full, or what was read back is not what was written; the earlier files are untouched.
    """
    folder = Path(wanted.path)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{step:08d}.pt"
    partial = folder / f"{name}.partial"
    with partial.open("wb") as file:
        digest = _Digest(file)
        torch.save(state, digest)  # type: ignore[arg-type]  # it writes to it and asks for nothing else
        file.flush()
        os.fsync(file.fileno())
    found = _sha256(partial)
    if found != digest.sha256:
        raise OSError(f"{partial}: what was read back is not what was written (SHA-256 {found}); is the disk sound?")
    partial.replace(folder / name)
    entry = Entry(
        file=name, step=step, bytes=(folder / name).stat().st_size, sha256=found, phase=phase, val_bpb=val_bpb
    )
    known = _read_index(folder)
    same = [one for one in known if one.step == step and one.phase and not phase]
    entry = dataclasses.replace(entry, phase=same[0].phase) if same else entry
    entries = [*(one for one in known if one.step != step), entry]
    kept = _kept(sorted(entries, key=lambda one: one.step), wanted)
    _write_index(folder, kept, state["config"]["data"]["path"])
    for path in folder.glob("step-*.pt"):
        if path.name not in {one.file for one in kept}:
            path.unlink()
    (folder / FILE).unlink(missing_ok=True)


def _kept(entries: list[Entry], wanted: CheckpointConfig) -> list[Entry]:
    """Those of the entries, by ascending step, that stay."""
    stay = {entry.step for entry in entries[-wanted.keep_last :]}
    stay |= {entry.step for entry in entries if entry.phase}
    scored = [entry for entry in entries if entry.val_bpb is not None]
    if wanted.keep_best and scored:
        stay.add(min(scored, key=lambda entry: entry.val_bpb or 0.0).step)
    return [entry for entry in entries if entry.step in stay]


def newest(folder: Path) -> Path | None:
    """The file to go on from: the newest of the index that is there; None where there is none."""
    for entry in reversed(_read_index(folder)):
        if (folder / entry.file).exists():
            return folder / entry.file
    return folder / FILE if (folder / FILE).exists() else None


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """The saved state in one file, checked against the index beside it where that has it.

    Raises:
        CheckpointError: the file is missing or damaged; the message names an earlier one where there is one.
    """
    entries = _read_index(path.parent)
    for entry in entries:
        if entry.file == path.name and _sha256(path) != entry.sha256:
            earlier = [one for one in entries if one.step < entry.step and (path.parent / one.file).exists()]
            remedy = (
                f"move it away to go on from {earlier[-1].file}, of step {earlier[-1].step}"
                if earlier
                else "move the folder away to start this run afresh"
            )
            raise CheckpointError(f"{path} is damaged: it is not what was written; {remedy}. Nothing was changed")
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        state["config"] = TrainConfig.from_dict(state["config"]).to_dict()  # with what earlier versions did not know
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); move it away to start this run afresh, nothing was changed"
        ) from error
    return state


def load(folder: Path, device: torch.device, config: dict[str, Any]) -> dict[str, Any] | None:
    """The saved state to go on from, or None where there is none.

    Args:
        folder: that `save` was given.
        device: to put tensors on.
        config: TrainConfig.to_dict() of the run that wants to go on.

    Raises:
        CheckpointError: the file is damaged, or belongs to a run with other values.
    """
    path = newest(folder)
    if path is None:
        return None
    state = read(path, device)
    saved, wanted = _wherever(state["config"]), _wherever(config)
    differences = [line for part in _THAT_MUST_AGREE for line in _differences(part, saved, wanted)]
    if differences:
        raise CheckpointError(
            f"{path} belongs to a run with other values ({'; '.join(differences)}); "
            "give this run another checkpoint folder, or move that one away"
        )
    return state


class _Digest(io.RawIOBase):
    """A file that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return self._file.write(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def _read_index(folder: Path) -> list[Entry]:
    """By ascending step; empty where there is no index.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = folder / INDEX
    if not path.exists():
        return []
    try:
        entries = [Entry(**values) for values in json.loads(path.read_bytes())["checkpoints"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}); it lists the checkpoints beside it") from error
    return sorted(entries, key=lambda entry: entry.step)


def _write_index(folder: Path, entries: list[Entry], data: str) -> None:
    partial = folder / f"{INDEX}.partial"
    with partial.open("w") as file:
        json.dump({"data": data, "checkpoints": [dataclasses.asdict(entry) for entry in entries]}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / INDEX)


# Where it runs and how often it saves or validates may change on resume; what is learned may not.
_THAT_MUST_AGREE = ("model", "helix", "optim", "schedule", "data", "plan", "budget", "ladder", "export", "seeds")
_MAY_DIFFER = {
    "data.path",
    "data.micro_batch_tokens",
    *(f"export.{name}" for name in ("codec", "prune", "path", "code")),  # what training never sees
}


def _wherever(config: dict[str, Any]) -> dict[str, Any]:
    """The config without where a plan's data lies."""
    phases = [{**phase, "data": bool(phase["data"])} for phase in config["plan"]["phases"]]
    return {**config, "plan": {**config["plan"], "phases": phases}}


def _differences(part: str, saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    keys = sorted(saved[part].keys() | wanted[part].keys())
    return [
        f"{part}.{key}: {saved[part].get(key)!r} saved, {wanted[part].get(key)!r} wanted"
        for key in keys
        if f"{part}.{key}" not in _MAY_DIFFER and saved[part].get(key) != wanted[part].get(key)
    ]


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of torch's generators, of this rank; its tensors are on the CPU."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def part_ways(rank: int, device: torch.device) -> None:
    """Give this rank draws of its own from here on, where all have the same until now: each drops out other channels.

    What a rank draws follows from what they had in common and from its number.  Rank 0 goes on as it was, so that a run
    on one device is what it would be without this.
    """
    if rank:
        common = b"".join(bytes(part.tolist()) for part in random_state(device).values())
        digest = hashlib.sha256(common + rank.to_bytes(4, "big")).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def random_states(by_rank: list[dict[str, Any]]) -> dict[str, Any]:
    """What a checkpoint holds of all ranks: the first one's, and beside it the others'."""
    return {**by_rank[0], "others": by_rank[1:]}


def restore_rank(saved: dict[str, Any], rank: int, device: torch.device) -> None:
    """Go on with what `random_states` gave; a rank that the saved run had not parts from its first one."""
    others = saved.get("others", [])  # earlier versions had none, and every rank drew the same
    if rank <= len(others):
        restore_random_state(others[rank - 1] if rank else saved, device)
        return
    restore_random_state(saved, device)
    part_ways(rank, device)


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
