"""Shards of parameter-golf, read where they lie: a prepared folder of links to them, nothing is copied."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from sweeper.errors import SweeperError
from sweeper.sentencepieces import SUFFIX, SentencePiece, fingerprint
from sweeper.shards import (
    MANIFEST,
    SPLITS,
    TOKEN_BYTES,
    Manifest,
    Shard,
    Split,
    folder_beside,
    load_manifest,
    publish,
    read_shard,
    stamp,
)

_LOOKED_AT = 1_000_000  # tokens at the front of a shard


def shards_in(folder: Path, split: Split) -> list[Path]:
    """`fineweb_train_000000.bin` and the like, in order."""
    return sorted(folder.glob(f"*{split}_*.bin"))


def find_model(name: str, folder: Path) -> Path:
    """The SentencePiece model of that path, or of that name beside the shards.

    Raises:
        SweeperError: neither is there.
    """
    for path in (Path(name), folder / name):
        if path.is_file():
            return path
    raise SweeperError(f"there is no SentencePiece model {name!r}, nor one of that name in {folder}")


def link(folder: Path, model: Path, home: Path) -> Path:
    """The prepared folder under `home` for the shards in `folder`, made on first use.

    More shards, or others, make another one.

    Raises:
        SweeperError: shards that are missing, damaged, or of another tokenizer than `model`.
    """
    paths = {split: shards_in(folder, split) for split in SPLITS}
    for split, found in paths.items():
        if not found:
            raise SweeperError(f"{folder} has no {split} shards (*{split}_*.bin)")
    source = {
        "folder": str(folder.resolve()),
        "shards": [stamp(path) for found in paths.values() for path in found],
    }
    identity = json.dumps([source, fingerprint(model)], sort_keys=True)
    out = home / "data" / f"{folder.resolve().name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if (out / MANIFEST).is_file():
        load_manifest(out)
        return out
    tokenizer = SentencePiece(model)
    with folder_beside(out) as beside:
        records = []
        for split, found in paths.items():
            for path in found:
                records.append(Shard(file=path.name, split=split, tokens=_checked(path, tokenizer)))
                (beside / path.name).symlink_to(path.resolve())
        manifest = Manifest(
            tokenizer=tokenizer.name,
            tokenizer_sha256=tokenizer.fingerprint,
            vocab_size=tokenizer.token_bytes.shape[-1],
            separator=tokenizer.separator,
            source=source,
            shards=tuple(records),
        )
        np.save(beside / TOKEN_BYTES, tokenizer.token_bytes)
        (beside / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        publish(beside, out)
    return out


def hint(folder: Path) -> str:
    """What to say where the folder was taken for a prepared one: empty, unless it holds shards."""
    if not shards_in(folder, "train"):
        return ""
    return f"; it holds shards, which are read as they are where data.tokenizer names their SentencePiece {SUFFIX}"


def _checked(path: Path, tokenizer: SentencePiece) -> int:
    """Tokens of the shard, after a look at the first of them."""
    tokens = read_shard(path)
    front = np.asarray(tokens[:_LOOKED_AT])
    words = tokenizer.token_bytes.shape[-1]
    if front.max(initial=0) >= words:
        raise SweeperError(
            f"{path} holds the token {front.max()}, {tokenizer.name} has only {words}: another tokenizer's"
        )
    if tokenizer.separator not in front:
        raise SweeperError(
            f"no document begins in the first {len(front):,} tokens of {path}: there is no BOS of {tokenizer.name} "
            f"({tokenizer.separator}); another tokenizer's"
        )
    return len(tokens)
