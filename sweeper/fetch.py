"""Published shards, with their tokenizer, from the Hugging Face hub.

Files arrive in a hidden folder beside their place, are checked there, and renamed.  Its client says where a file is,
how long, and its SHA-256; the bytes we fetch ourselves, as a download that was killed shall go on where it stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from sweeper.errors import SweeperError
from sweeper.shards import HEADER_BYTES, SHARD_TOKENS, read_shard


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set is published."""

    repository: str
    """Of data sets on the hub."""
    root: str
    """Folder of the repository that holds `manifest.json`, whose paths begin there."""
    name: str
    """In that manifest, and of the folder with the shards."""

    def shard(self, split: str, number: int) -> str:
        """Path of a shard in the repository."""
        return f"{self.root}/datasets/{self.name}/fineweb_{split}_{number:06d}.bin"


SOURCES = {"fineweb-sp1024": Source("willdepueoai/parameter-golf", "datasets", "fineweb10B_sp1024")}
"""As openai/parameter-golf downloads them (data/cached_challenge_fineweb.py and data/README.md there)."""

DEFAULT_SHARDS = 10
"""A thousand million tokens in 2 GB: enough for ten minutes of one GPU. One shard alone is trained on again and again
there, which has cost 0.1 bits per byte; the baseline takes 80."""
PUBLISHED = "published.json"
"""The repository's manifest, beside the shards."""


MOST_BREAKS = 5
"""Of the connection, one after another, that bring nothing new."""
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one file is; `bytes_done` equals `bytes` when it is in its place, checked."""

    file: str
    number: int
    """Counted from 1."""
    files: int
    bytes_done: int
    bytes: int
    fetched: bool = True
    """False when it was there before."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What `fetch` leaves."""

    folder: Path
    model: Path
    train_tokens: int
    val_tokens: int
    train_shards: int
    """In the folder, those of earlier calls included."""
    published_shards: int


def fetch(name: str, shards: int, out: Path, report: Callable[[Progress], None] = lambda progress: None) -> Fetched:
    """Bring the validation split, the tokenizer and the first `shards` training shards to `out`; what is there stays.

    Raises:
        SweeperError: an unknown name, more shards than there are, no room, a hub that cannot be reached or does not
            have it, or a file that is not what the hub, its manifest and its own header say.
    """
    if name not in SOURCES:
        raise SweeperError(f"unknown data set {name!r}: known are {', '.join(SOURCES)}")
    if shards < 1:
        raise SweeperError(f"--shards must be at least 1, got {shards}")
    source = SOURCES[name]
    waiting = out / ".fetching"
    _make(waiting)
    manifest = _download(source, f"{source.root}/manifest.json", waiting)
    listed = _Listed(source, manifest)
    if shards > listed.train_shards:
        raise SweeperError(f"{name} has {listed.train_shards} training shards, {shards} are asked for")
    wanted = [
        listed.model,
        *(source.shard("val", number) for number in range(listed.val_shards)),
        *(source.shard("train", number) for number in range(shards)),
    ]
    missing = [path for path in wanted if not (out / Path(path).name).exists()]
    _check_room(out, listed.shard_bytes * sum(path.endswith(".bin") for path in missing))
    for number, path in enumerate(wanted, start=1):
        told = Progress(Path(path).name, number, len(wanted), 0, 0, path in missing)
        _bring(source, path, out, waiting, told, report)
    found = Fetched(
        folder=out,
        model=out / Path(listed.model).name,
        train_tokens=_tokens(out, "train"),
        val_tokens=_tokens(out, "val"),
        train_shards=len(list(out.glob("fineweb_train_*.bin"))),
        published_shards=listed.train_shards,
    )
    if listed.val_tokens not in (None, found.val_tokens):
        raise SweeperError(
            f"the validation split in {out} has {found.val_tokens:,} tokens, the hub's manifest says "
            f"{listed.val_tokens:,}: scores would not be comparable; remove the folder and fetch again"
        )
    manifest.replace(out / PUBLISHED)
    shutil.rmtree(waiting, ignore_errors=True)
    return found


def _bring(
    source: Source, path: str, out: Path, waiting: Path, told: Progress, report: Callable[[Progress], None]
) -> None:
    """One file into its place, or a look at the one that is there."""
    place = out / told.file
    if told.fetched:
        arrived = _download(source, path, waiting, partial(_tell, report, told))
        _check(arrived)
        arrived.replace(place)
    else:
        _check(place)
    _tell(report, told, place.stat().st_size, place.stat().st_size)


class _Listed:
    """What the repository's manifest says of one data set."""

    def __init__(self, source: Source, path: Path) -> None:
        try:
            manifest = json.loads(path.read_bytes())
            entry = _named(manifest["datasets"], source.name)
            stats: dict[str, Any] = entry["stats"]
            self.train_shards, self.val_shards = int(stats["files_train"]), int(stats["files_val"])
            self.model = f"{source.root}/{_named(manifest['tokenizers'], entry['tokenizer_name'])['model_path']}"
            self.val_tokens = stats.get("tokens_val")
            whole = stats.get("tokens_train", self.train_shards * SHARD_TOKENS)
            self.shard_bytes = HEADER_BYTES + 2 * whole // max(1, self.train_shards)
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise SweeperError(
                f"the manifest of {source.repository} does not describe {source.name} as expected ({error!r}); "
                "its layout may have changed since this version of sweeper"
            ) from error


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def _download(
    source: Source, path: str, waiting: Path, report: Callable[[int, int], None] = lambda done, size: None
) -> Path:
    """One file of the repository, whole, in the folder `waiting`; reported are bytes done and of the file."""
    url, headers, size, digest = _described(source, path)
    # Under the name of its content: what is left of a file that has changed since is not gone on with.
    place = waiting / f"{digest[:16]}-{Path(path).name}"
    try:
        breaks = 0
        while True:
            before = _length(place)
            try:
                _receive(url, headers, place, lambda done: report(done, size))
                break
            except httpx.TransportError:
                breaks = 1 if _length(place) > before else breaks + 1
                if breaks == MOST_BREAKS:
                    raise
                time.sleep(breaks)
    except (httpx.HTTPError, OSError) as error:
        raise _failed(source, path, error) from error
    if place.stat().st_size != size or (len(digest) == 64 and _sha256(place) != digest):
        place.unlink()
        raise SweeperError(f"{path} of {source.repository} arrived damaged; the same command fetches it again")
    return place


def _described(source: Source, path: str) -> tuple[str, dict[str, str], int, str]:
    """Of a file: its URL, headers to ask with, length in bytes, and digest: SHA-256 if that of a large file."""
    try:
        from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url  # of the extra `golf`
    except ImportError as error:
        raise SweeperError("fetching needs the extra golf: pip install huggingface-hub sentencepiece") from error
    url = hf_hub_url(source.repository, path, repo_type="dataset", endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        found = get_hf_file_metadata(url)
    except Exception as error:  # its versions differ in the HTTP library whose errors come through
        raise _failed(source, path, error) from error
    if found.size is None or found.etag is None:
        raise _failed(source, path, ValueError("the hub does not say how long it is"))
    token = get_token()  # of the user who has logged in there; none is needed for public data
    return url, {"Authorization": f"Bearer {token}"} if token else {}, found.size, found.etag


def _receive(url: str, headers: dict[str, str], place: Path, report: Callable[[int], None]) -> None:
    """Append to `place` what it lacks."""
    done = _length(place)
    asked = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
    with httpx.stream("GET", url, headers=asked, follow_redirects=True, timeout=TIMEOUT_SECONDS) as answer:
        if done and answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # it was there to its end
        answer.raise_for_status()
        goes_on = answer.status_code == httpx.codes.PARTIAL_CONTENT
        with place.open("ab" if goes_on else "wb") as file:
            for chunk in answer.iter_raw():
                file.write(chunk)
                report(file.tell())


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _failed(source: Source, path: str, error: Exception) -> SweeperError:
    return SweeperError(
        f"cannot fetch {path} of {source.repository}: {str(error).strip() or repr(error)}\n"
        "the same command goes on where this one stopped"
    )


def _tell(report: Callable[[Progress], None], told: Progress, done: int, size: int) -> None:
    report(dataclasses.replace(told, bytes_done=done, bytes=size))


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SweeperError(f"cannot write to {out}: {error}") from error


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free:
        raise SweeperError(
            f"{needed / 1e9:.1f} GB are to come, but only {free / 1e9:.1f} GB are free for {out}: "
            "ask for fewer --shards, or name a folder on a larger disk with --out"
        )


def _check(path: Path) -> None:
    """Raises SweeperError for a shard whose header or size is wrong; what cannot be right is removed."""
    if path.suffix != ".bin":
        return
    try:
        read_shard(path)
    except (SweeperError, ValueError) as error:
        path.unlink()
        raise SweeperError(f"{error}; it is removed, and the same command fetches it again") from error


def _tokens(out: Path, split: str) -> int:
    return sum(len(read_shard(path)) for path in out.glob(f"fineweb_{split}_*.bin"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
