"""Data sets: text to token shards, and the packaged corpus prepared on first use.

A prepared folder appears whole or not at all: it is written beside its place and renamed.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweeper import golf, tokenizers
from sweeper.documents import find_files
from sweeper.encode import Batch, Input, encode
from sweeper.errors import SweeperError
from sweeper.shards import (
    MANIFEST,
    SHARD_TOKENS,
    SPLITS,
    TOKEN_BYTES,
    Manifest,
    ShardWriter,
    folder_beside,
    load_manifest,
    publish,
    stamp,
)

SMALL = "small"
"""Name of the packaged corpus."""

VAL_FRACTION = 0.01


@dataclass(frozen=True, slots=True)
class Progress:
    """How far `prepare` is."""

    path: Path
    bytes_done: int
    """Of all input files, as stored."""
    bytes_total: int
    documents: int
    tokens: int


Report = Callable[[Progress], None]


def prepare(
    paths: Sequence[Path],
    tokenizer: str,
    out: Path,
    *,
    val_paths: Sequence[Path] = (),
    val_fraction: float = VAL_FRACTION,
    column: str = "text",
    progress: Report | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> Manifest:
    """Encode text files, JSON lines or Parquet into a prepared folder, in a stream.

    Val is made of `val_paths`; without any, of the `val_fraction` of documents whose hash falls low
    (documents over a million characters are drawn in parts), so that the choice survives a new order of files.
    A folder that was prepared from the same files (by name, size and time) is left as it is.

    Raises:
        SweeperError: input that is missing or broken, an empty split, or another data set in `out`.
    """
    tokenizers.check_name(tokenizer)
    if not val_paths and not 0 < val_fraction < 1:
        raise SweeperError(f"the val fraction must be between 0 and 1, got {val_fraction}")
    train, val = find_files(list(paths)), find_files(list(val_paths))
    if not train:
        raise SweeperError("no input: name at least one file or folder of text")
    source: dict[str, Any] = {
        "train": [stamp(path) for path in train],
        "val": [stamp(path) for path in val] or {"fraction": val_fraction},
        "column": column,
        "shard_tokens": shard_tokens,
    }
    inputs = [Input(path, "train" if val else None) for path in train] + [Input(path, "val") for path in val]
    return _prepare(
        inputs,
        tokenizer,
        out,
        source,
        val_fraction=val_fraction,
        column=column,
        shard_tokens=shard_tokens,
        progress=progress,
    )


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
        _prepare(inputs, tokenizer, folder, source)
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


def _prepare(
    inputs: list[Input],
    tokenizer: str,
    out: Path,
    source: dict[str, Any],
    *,
    val_fraction: float = VAL_FRACTION,
    column: str = "text",
    shard_tokens: int = SHARD_TOKENS,
    progress: Report | None = None,
) -> Manifest:
    existing = _existing(out, source, tokenizer)
    if existing is not None:
        return existing
    loaded = tokenizers.load(tokenizer)
    with folder_beside(out) as folder:
        lengths, separator = loaded.token_bytes, loaded.separator
        with (
            ShardWriter(folder, "train", lengths, separator, shard_tokens) as train,
            ShardWriter(folder, "val", lengths, separator, shard_tokens) as val,
        ):
            _write(encode(inputs, column, loaded, val_fraction), train, val, inputs, progress)
            records = train.finish() + val.finish()
        manifest = Manifest(
            tokenizer=loaded.name,
            tokenizer_sha256=loaded.fingerprint,
            vocab_size=lengths.shape[-1],
            separator=separator,
            source=source,
            shards=tuple(records),
        )
        _check_splits(manifest, inputs, val_fraction)
        np.save(folder / TOKEN_BYTES, lengths)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        if publish(folder, out):
            return manifest
    faster = _existing(out, source, tokenizer)
    assert faster is not None, f"{out} was there and is gone"
    return faster


def _write(
    batches: Iterator[Batch],
    train: ShardWriter,
    val: ShardWriter,
    inputs: list[Input],
    progress: Report | None,
) -> None:
    sizes = [source.path.stat().st_size for source in inputs]
    before = {source.path: sum(sizes[:i]) for i, source in enumerate(inputs)}
    for batch in batches:
        for writer in (train, val):
            if writer.split in batch.tokens:
                writer.append(batch.tokens[writer.split])
        if progress is not None:
            progress(
                Progress(
                    path=batch.path,
                    bytes_done=before[batch.path] + batch.position,
                    bytes_total=sum(sizes),
                    documents=train.documents + val.documents,
                    tokens=train.tokens + val.tokens,
                )
            )


def _check_splits(manifest: Manifest, inputs: list[Input], val_fraction: float) -> None:
    files = f"{len(inputs)} file{'s' if len(inputs) > 1 else ''}, from {inputs[0].path}"
    if not manifest.shards:
        raise SweeperError(f"there is no text in the input ({files})")
    for split in SPLITS:
        if manifest.tokens(split) == 0 and inputs[-1].split is None:
            raise SweeperError(
                f"none of the {sum(shard.documents for shard in manifest.shards)} documents fell into {split} "
                f"with a val fraction of {val_fraction}: name files for val with --val, or give more text"
            )
        if manifest.tokens(split) == 0:
            raise SweeperError(f"there is no text in the input for {split} ({files})")


def _existing(out: Path, source: dict[str, Any], tokenizer: str) -> Manifest | None:
    """The manifest of what is in `out` when it is what we would make; None when nothing is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST).is_file():
        raise SweeperError(f"{out} exists and is no prepared data folder: choose another folder")
    manifest = load_manifest(out)
    if manifest.source != source or manifest.tokenizer_sha256 != tokenizers.fingerprint(tokenizer):
        raise SweeperError(
            f"{out} already holds other data ({manifest.tokens('train'):,} train tokens by "
            f"{manifest.tokenizer}): choose another folder, or remove this one"
        )
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
