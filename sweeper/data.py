"""Data sets: text to token shards, and the packaged corpus prepared on first use.

A prepared folder appears whole or not at all: it is written beside its place and renamed.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeper import golf, tokenizers, unfinished
from sweeper.documents import Format, check_format, find_files
from sweeper.encode import Input
from sweeper.errors import SweeperError
from sweeper.preparation import NOTE_SECONDS, VAL_FRACTION, Job, Preparation
from sweeper.preparation import Progress as Progress
from sweeper.preparation import Report as Report
from sweeper.shards import (
    MANIFEST,
    SHARD_TOKENS,
    TOKEN_BYTES,
    Manifest,
    folder_beside,
    load_manifest,
    publish,
    stamp,
)

SMALL = "small"
"""Name of the packaged corpus."""


def prepare(
    paths: Sequence[Path],
    tokenizer: str,
    out: Path,
    *,
    val_paths: Sequence[Path] = (),
    val_fraction: float = VAL_FRACTION,
    column: str = "text",
    form: Format = "text",
    reserve_tokens: int = 0,
    progress: Report | None = None,
    shard_tokens: int = SHARD_TOKENS,
    note_seconds: float = NOTE_SECONDS,
) -> Manifest:
    """Encode text files, JSON lines or Parquet into a prepared folder, in a stream.

    Val is made of `val_paths`; without any, of the `val_fraction` of documents whose hash falls low
    (documents over a million characters are drawn in parts), so that the choice survives a new order of files.
    `reserve_tokens` at least of the rest are set aside, evenly over the input, as the split `reserve`.

    A folder that was prepared from the same files (by name, size and time) is left as it is. One whose preparation
    was interrupted, by whatever, is gone on with, and becomes what it would have become; but one that stopped at a
    fault of the input is begun anew, as the input must change.

    Raises:
        SweeperError: input that is missing or broken, an empty split, another data set in `out` or on its way there, or
            another process that prepares it.
    """
    tokenizers.check_name(tokenizer)
    if not val_paths and not 0 < val_fraction < 1:
        raise SweeperError(f"the val fraction must be between 0 and 1, got {val_fraction}")
    if reserve_tokens < 0:
        raise SweeperError(f"the tokens to reserve must not be negative, got {reserve_tokens}")
    train, val = find_files(list(paths)), find_files(list(val_paths))
    if not train:
        raise SweeperError("no input: name at least one file or folder of text")
    check_format(train + val, form)
    source: dict[str, Any] = {
        "train": [stamp(path) for path in train],
        "val": [stamp(path) for path in val] or {"fraction": val_fraction},
        "column": column,
        "shard_tokens": shard_tokens,
        **({"reserve_tokens": reserve_tokens} if reserve_tokens else {}),  # earlier versions wrote neither
        **({"format": form} if form != "text" else {}),
    }
    job = Job(
        inputs=[Input(path, "train" if val else None) for path in train] + [Input(path, "val") for path in val],
        tokenizer=tokenizer,
        source=source,
        val_fraction=val_fraction,
        column=column,
        form=form,
        shard_tokens=shard_tokens,
        reserve_tokens=reserve_tokens,
    )
    return _existing(out, job) or _resumable(out, job, progress, note_seconds)


def ensure(name: str, tokenizer: str, home: Path) -> Path:
    """The prepared folder of a data set: `small`, prepared under `home` on first use, or a folder's path.

    A path may also hold bare shards of a SentencePiece model: those are linked to, see `golf.link`.
    Several processes may ask at once: each folder appears whole, and the first one stays.

    Raises:
        SweeperError: a path that is no prepared folder or was prepared with another tokenizer.
    """
    if name != SMALL:
        return _existing_folder(Path(name), tokenizer, home)
    tokenizers.check_name(tokenizer)
    folder = home / "data" / f"{SMALL}-{tokenizers.label(tokenizer)}"
    corpus = importlib.resources.files("sweeper") / "assets" / SMALL
    with importlib.resources.as_file(corpus) as packed:
        inputs = [Input(packed / "train.txt.zst", "train"), Input(packed / "val.txt.zst", "val")]
        source = {"corpus": SMALL, "sha256": [_sha256(source.path) for source in inputs]}
        _at_once(folder, Job(inputs=inputs, tokenizer=tokenizer, source=source))
    return folder


def _existing_folder(folder: Path, tokenizer: str, home: Path) -> Path:
    if tokenizers.is_model(tokenizer):
        model = golf.find_model(tokenizer, folder)
        if not (folder / TOKEN_BYTES).exists():
            return golf.link(folder, model, home)
        tokenizer = str(model)
    elif not (folder / MANIFEST).exists() and (hint := golf.hint(folder)):
        raise SweeperError(f"{folder} is no prepared data folder{hint}")
    tokenizers.check_name(tokenizer)
    manifest = load_manifest(folder)
    if manifest.tokenizer_sha256 != tokenizers.fingerprint(tokenizer):
        raise SweeperError(
            f"{folder} was prepared with the tokenizer {manifest.tokenizer}, the study asks for {tokenizer}; "
            "change data.tokenizer in the study or prepare the data again"
        )
    return folder


def _at_once(out: Path, job: Job) -> None:
    """Prepare in a folder of this process's own: others may do the same meanwhile, and the first one's stays."""
    if _existing(out, job) is not None:
        return
    with folder_beside(out) as folder:
        Preparation(job, folder).run()
        publish(folder, out)
    assert _existing(out, job) is not None, f"{out} was there and is gone"


def _resumable(out: Path, job: Job, progress: Report | None, note_seconds: float) -> Manifest:
    """Prepare in the one folder there is for that, from where the last process stopped."""
    with unfinished.claimed(out) as folder:
        existing = _existing(out, job)  # whoever had the folder before may have finished
        if existing is not None:
            unfinished.discard(folder)
            return existing
        note = unfinished.load(folder, job.identity)
        if note is None and (folder / MANIFEST).exists():  # killed between its last two acts
            manifest = _existing(folder, job)
            assert manifest is not None, "it has a manifest"
        else:
            manifest = _prepared(folder, job, note, progress, note_seconds)
            unfinished.forget(folder)
        published = publish(folder, out)
    if not published:
        raise SweeperError(f"{out} appeared while it was prepared; what was made is in {folder}")
    return manifest


def _prepared(
    folder: Path, job: Job, note: unfinished.Note | None, progress: Report | None, note_seconds: float
) -> Manifest:
    if note is None:
        unfinished.clear(folder)
    preparation = Preparation(
        job,
        folder,
        note=note,
        report=progress,
        save=lambda note: unfinished.save(folder, note),
        note_seconds=note_seconds,
    )
    try:
        return preparation.run()
    except SweeperError:
        unfinished.discard(folder)  # the input has a fault: mended it is another, so that this cannot be gone on with
        raise


def _existing(out: Path, job: Job) -> Manifest | None:
    """The manifest of what is in `out` when it is what we would make; None when nothing is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST).is_file():
        raise SweeperError(f"{out} exists and is no prepared data folder: choose another folder")
    manifest = load_manifest(out)
    if manifest.source != job.source or manifest.tokenizer_sha256 != tokenizers.fingerprint(job.tokenizer):
        raise SweeperError(
            f"{out} already holds other data ({manifest.tokens('train'):,} train tokens by "
            f"{manifest.tokenizer}): choose another folder, or remove this one"
        )
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
