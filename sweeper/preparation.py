"""From files of text to the content of a prepared folder; may be interrupted anywhere, and gone on with."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweeper import tokenizers
from sweeper.chatml import ChatTokenizer
from sweeper.documents import Format
from sweeper.encode import Allotment, Batch, Input, encode
from sweeper.errors import SweeperError
from sweeper.shard_writer import ShardWriter
from sweeper.shards import MANIFEST, SHARD_TOKENS, SPLITS, TOKEN_BYTES, Manifest, Split, write_atomically
from sweeper.unfinished import ORDER, Note, Place

VAL_FRACTION = 0.01
NOTE_SECONDS = 5.0
"""Between two notes of how far it is: what a kill costs at most, but for reading up to there again."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a preparation is."""

    path: Path
    bytes_done: int
    """Of all input files, as stored."""
    bytes_total: int
    documents: int
    tokens: int


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is prepared, from what."""

    inputs: list[Input]
    """Those of train, or to be drawn from, before those of val."""
    tokenizer: str
    source: dict[str, Any]
    """For the manifest: equal sources give equal shards."""
    val_fraction: float = VAL_FRACTION
    column: str = "text"
    form: Format = "text"
    shard_tokens: int = SHARD_TOKENS
    reserve_tokens: int = 0

    @property
    def splits(self) -> tuple[Split, ...]:
        return (*SPLITS, "reserve") if self.reserve_tokens else SPLITS

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a preparation to be gone on with."""
        return {
            "tokenizer": Path(self.tokenizer).name,
            "tokenizer_sha256": tokenizers.fingerprint(self.tokenizer),
            "source": self.source,
            "order": ORDER,
        }


class Preparation:
    """Fills a folder that this process alone writes to.

    Args:
        job: what is prepared.
        folder: to be filled; what is there belongs to `note`.
        note: of an interrupted preparation of the same job; None for a fresh start.
        report: is told how far it is, after every few documents.
        save: is given a note now and then, all of which is on the disk.
        note_seconds: between two notes.

    Raises:
        SweeperError: a tokenizer that cannot be loaded, or a folder that does not hold what the note says.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        *,
        note: Note | None = None,
        report: Report | None = None,
        save: Callable[[Note], None] | None = None,
        note_seconds: float = NOTE_SECONDS,
    ) -> None:
        self._job, self._folder = job, folder
        self._report, self._save, self._note_seconds = report, save, note_seconds
        loaded = tokenizers.load(job.tokenizer)
        self._tokenizer = ChatTokenizer(loaded) if job.form == "chatml" else loaded
        self._added = self._tokenizer.added if isinstance(self._tokenizer, ChatTokenizer) else {}
        table, separator = self._tokenizer.token_bytes, self._tokenizer.separator
        states = {} if note is None else note.writers
        self._writers = {
            split: ShardWriter(folder, split, table, separator, job.shard_tokens, states.get(split))
            for split in job.splits
        }
        sizes = [source.path.stat().st_size for source in job.inputs]
        self._before = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self._begin = Place() if note is None else note.place
        self._allotment = Allotment(
            separator,
            reserve_tokens=job.reserve_tokens,
            input_bytes=sum(s for s, source in zip(sizes, job.inputs, strict=True) if source.split != "val"),
            reserved=self._writers["reserve"].tokens if job.reserve_tokens else 0,
            last=None if note is None else note.last,
        )

    def run(self) -> Manifest:
        """To the end; the folder then holds all that a prepared one does.

        Raises:
            SweeperError: broken input, an empty split, or too little text for the reserve.
        """
        job = self._job
        with ExitStack() as stack:
            for writer in self._writers.values():
                stack.enter_context(writer)
            noted_at = time.monotonic()
            for batch in self._batches():
                self._write(batch)
                if self._save is not None and time.monotonic() - noted_at >= self._note_seconds:
                    self._save(self._note(batch.end))
                    noted_at = time.monotonic()
            records = [shard for writer in self._writers.values() for shard in writer.finish()]
        table = self._tokenizer.token_bytes
        manifest = Manifest(
            tokenizer=self._tokenizer.name,
            tokenizer_sha256=self._tokenizer.fingerprint,
            vocab_size=table.shape[-1],
            separator=self._tokenizer.separator,
            added_tokens=self._added,
            source=job.source,
            shards=tuple(records),
        )
        _check_splits(manifest, job)
        packed = io.BytesIO()
        np.save(packed, table)
        write_atomically(self._folder / TOKEN_BYTES, packed.getvalue())
        write_atomically(self._folder / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
        return manifest

    def _batches(self) -> Iterator[Batch]:
        job = self._job
        return encode(
            job.inputs,
            self._tokenizer,
            val_fraction=job.val_fraction,
            column=job.column,
            form=job.form,
            begin=self._begin,
        )

    def _write(self, batch: Batch) -> None:
        before = self._before[batch.file]
        for split, tokens in self._allotment.allot(batch.pieces, before).items():
            self._writers[split].append(tokens)
        if self._report is not None:
            self._report(
                Progress(
                    path=self._job.inputs[batch.file].path,
                    bytes_done=before + batch.position,
                    bytes_total=self._before[-1],
                    documents=sum(writer.documents for writer in self._writers.values()),
                    tokens=sum(writer.tokens for writer in self._writers.values()),
                )
            )

    def _note(self, place: Place) -> Note:
        return Note(
            identity=self._job.identity,
            place=place,
            last=self._allotment.last,
            writers={split: writer.state() for split, writer in self._writers.items()},
        )


def _check_splits(manifest: Manifest, job: Job) -> None:
    inputs = job.inputs
    files = f"{len(inputs)} file{'s' if len(inputs) > 1 else ''}, from {inputs[0].path}"
    if not manifest.shards:
        raise SweeperError(f"there is no text in the input ({files})")
    reserved, train = manifest.tokens("reserve"), manifest.tokens("train")
    if reserved < job.reserve_tokens or (job.reserve_tokens and not train):
        raise SweeperError(
            f"--reserve-tokens {job.reserve_tokens:,} leaves nothing to train on: the input has only "
            f"{reserved + train:,} tokens besides val; reserve fewer, or give more text"
        )
    for split in SPLITS:
        if manifest.tokens(split) == 0 and inputs[-1].split is None:
            raise SweeperError(
                f"none of the {sum(shard.documents for shard in manifest.shards)} documents fell into {split} "
                f"with a val fraction of {job.val_fraction}: name files for val with --val, or give more text"
            )
        if manifest.tokens(split) == 0:
            raise SweeperError(f"there is no text in the input for {split} ({files})")
