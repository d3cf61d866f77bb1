"""`sweeper data`: text to token shards, or published ones from the hub, with a word on how far it is."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from sweeper import data, display, shards
from sweeper import fetch as fetching

LINE_SECONDS = 10.0


def prepare(paths: list[Path], tokenizer: str, out: Path, console: Console, **options: Any) -> None:
    """Prepare, and say what came of it; see data.prepare for the options and errors."""
    began = spoke_at = time.monotonic()
    begun_with: int | None = None
    status = console.status("reading …") if console.is_terminal else None

    def show(progress: data.Progress) -> None:
        nonlocal spoke_at, begun_with
        if begun_with is None:
            begun_with = progress.bytes_done
        rate = (progress.bytes_done - begun_with) / max(1e-9, time.monotonic() - began)
        left = (progress.bytes_total - progress.bytes_done) / rate if rate else 0.0
        line = (
            f"{progress.bytes_done / max(1, progress.bytes_total):.0%}, {display.count(progress.tokens)} tokens, "
            f"{rate / 1e6:.1f} MB/s, {left / 60:.0f} min left, {progress.path.name}"
        )
        if status is not None:
            status.update(line)
        elif time.monotonic() - spoke_at > LINE_SECONDS:
            spoke_at = time.monotonic()
            display.say(console, line)

    with status or contextlib.nullcontext():
        made = data.prepare(paths, tokenizer, out, progress=show, **options)
    _say_splits(made, console)
    display.say(console, f"wrote {out}; {_in_a_study(out, tokenizer)}")
    if made.added_tokens:
        ids = ", ".join(f"{marker} {number}" for marker, number in made.added_tokens.items())
        display.say(console, f"added ids: {ids}; model.vocab_size must be at least {made.vocab_size:,}")


def verify(folder: Path, console: Console) -> None:
    """Say that a folder is as it was written; see shards.verify for the errors."""
    made = shards.verify(folder)
    _say_splits(made, console)
    unknown = sum(not shard.sha256 for shard in made.shards)
    if unknown:
        display.say(console, f"{unknown} shards lie elsewhere: their sizes are right, their content was never recorded")
    else:
        display.say(console, f"all {len(made.shards)} shards are as they were written")


def _say_splits(made: shards.Manifest, console: Console) -> None:
    for split in ("train", "val", "reserve"):
        if made.tokens(split):
            display.say(
                console,
                f"{split}: {made.documents(split):,} documents, {made.tokens(split):,} tokens, "
                f"{made.text_bytes(split):,} bytes of text",
            )


def fetch(name: str, shards: int, out: Path, console: Console) -> None:
    """Fetch, and say what came of it; see fetch.fetch for the errors."""
    spoke_at = time.monotonic()
    status = console.status("asking the hub …") if console.is_terminal else None

    def show(progress: fetching.Progress) -> None:
        nonlocal spoke_at
        line = f"[{progress.number}/{progress.files}] {progress.file}, {progress.bytes / 1e6:,.0f} MB"
        if progress.bytes_done == progress.bytes:
            display.say(console, line if progress.fetched else f"{line}, was there")
            return
        line += f", {progress.bytes_done / progress.bytes:.0%}"
        if status is not None:
            status.update(line)
        elif time.monotonic() - spoke_at > LINE_SECONDS:
            spoke_at = time.monotonic()
            display.say(console, line)

    with status or contextlib.nullcontext():
        made = fetching.fetch(name, shards, out, show)
    display.say(
        console,
        f"train: {made.train_tokens:,} tokens in {made.train_shards} shards; val: {made.val_tokens:,} tokens",
    )
    if made.train_shards < min(fetching.DEFAULT_SHARDS, made.published_shards):
        display.say(
            console,
            f"warning: only {made.train_shards} of {made.published_shards} shards: a run of ten minutes on a fast GPU "
            f"repeats them, which has cost 0.1 bits per byte; --shards {fetching.DEFAULT_SHARDS} adds more",
            style="yellow",
        )
    display.say(console, _in_a_study(out, str(made.model)))


def _in_a_study(folder: Path, tokenizer: str) -> str:
    return f'in a study file: data = {{ name = "{folder}", tokenizer = "{tokenizer}" }}'
