"""`sweeper data prepare`: text to token shards, with a word on how far it is."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from rich.console import Console

from sweeper import data, display

LINE_SECONDS = 10.0


def prepare(
    paths: list[Path], tokenizer: str, out: Path, val: list[Path], val_fraction: float, column: str, console: Console
) -> None:
    """Prepare, and say what came of it; see data.prepare for the errors."""
    spoke_at = time.monotonic()
    status = console.status("reading …") if console.is_terminal else None

    def show(progress: data.Progress) -> None:
        nonlocal spoke_at
        share = progress.bytes_done / max(1, progress.bytes_total)
        line = f"{share:.0%}, {display.count(progress.tokens)} tokens, {progress.path.name}"
        if status is not None:
            status.update(line)
        elif time.monotonic() - spoke_at > LINE_SECONDS:
            spoke_at = time.monotonic()
            display.say(console, line)

    with status or contextlib.nullcontext():
        made = data.prepare(
            paths, tokenizer, out, val_paths=val, val_fraction=val_fraction, column=column, progress=show
        )
    for split in ("train", "val"):
        display.say(
            console,
            f"{split}: {made.documents(split):,} documents, {made.tokens(split):,} tokens, "
            f"{made.text_bytes(split):,} bytes of text",
        )
    display.say(console, f'wrote {out}; in a study file: data = {{ name = "{out}", tokenizer = "{tokenizer}" }}')
