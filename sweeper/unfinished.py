"""A prepared folder that is being made: hidden beside its place, owned by one process, gone on with after a kill.

Everything in it is written before the note that tells of it, and the note is replaced in one piece; what lies there
beyond the note is written again.  So a preparation that was killed at any moment, however often, ends in the bytes of
an unbroken one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sweeper.errors import SweeperError
from sweeper.shard_writer import WriterState
from sweeper.shards import Split, write_atomically

NOTE = "unfinished.json"
ORDER = 1
"""Counts up when the order or the cuts of pieces change: a place then means another piece."""


class Place(BaseModel):
    """A place in the input: everything before it is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: int = 0
    """Of the inputs, in their order."""
    pieces: int = 0
    """Of that file, that are done."""


class Note(BaseModel):
    """How far a preparation is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identity: dict[str, Any]
    """What is being made, from what: only the same may go on."""
    place: Place
    last: Split | None
    """Split of the last piece before the place."""
    writers: dict[Split, WriterState]


def beside(out: Path) -> Path:
    """Where the folder `out` is made."""
    return out.absolute().parent / f".{out.name}.partial"


@contextmanager
def claimed(out: Path) -> Iterator[Path]:
    """The folder in which `out` is being made, made on first use; for the block it belongs to this process.

    Raises:
        SweeperError: another process has it, or it cannot be made.
    """
    folder = beside(out)
    handle = _lock(folder)
    try:
        yield folder
    finally:
        os.close(handle)  # and with it the lock; so does the end of the process, however it comes


def load(folder: Path, identity: dict[str, Any]) -> Note | None:
    """The note of an interrupted preparation; None where there is none, and the folder is for a fresh start.

    Raises:
        SweeperError: what was interrupted would have become something else, or the note is damaged; nothing is changed.
    """
    path = folder / NOTE
    try:
        note = Note.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise SweeperError(
            f"{path} cannot be read ({error.errors()[0]['msg']}); remove {folder} and start anew"
        ) from error
    if note.identity != identity:
        differing = ", ".join(
            f"{key} was {_short(note.identity.get(key))}, is {_short(identity.get(key))}"
            for key in sorted(note.identity.keys() | identity.keys())
            if note.identity.get(key) != identity.get(key)
        )
        raise SweeperError(
            f"{folder} holds an interrupted preparation of other data ({differing}): give the same files, tokenizer "
            "and options to go on with it, choose another --out, or remove it"
        )
    return note


def save(folder: Path, note: Note) -> None:
    """Put the note in the place of the last one."""
    write_atomically(folder / NOTE, note.model_dump_json().encode())


def forget(folder: Path) -> None:
    """The folder is complete."""
    (folder / f"{NOTE}.partial").unlink(missing_ok=True)
    (folder / NOTE).unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove what was made so far."""
    shutil.rmtree(folder, ignore_errors=True)


def clear(folder: Path) -> None:
    """For a fresh start: remove what was written before the first note."""
    for path in folder.iterdir():
        path.unlink()


def _lock(folder: Path) -> int:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # finished, and renamed, between the two
        except OSError as error:
            raise SweeperError(f"cannot write to {folder.parent}: {error}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise SweeperError(f"another process is preparing this folder, in {folder}; wait for it") from error
        if folder.exists() and folder.stat().st_ino == os.fstat(handle).st_ino:
            return handle
        os.close(handle)  # it was finished and renamed meanwhile


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} … ({len(text)} characters)"
