"""`sweeper sample`: a checkpoint goes on with a prompt, written as it comes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sweeper import decode, devices, tokenizers
from sweeper.chatml import MARKERS, ChatTokenizer, question
from sweeper.errors import SweeperError
from sweeper.shards import load_manifest

INDEX = "index.json"
"""Beside the checkpoints of a run; it says which data they were trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asked for."""

    checkpoint: Path
    prompt: str
    tokens: int
    tokenizer: str | None
    chat: bool
    stops: Sequence[str]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    device: str


def sample(order: Order, console: Console) -> int:
    """Write the continuation; the exit status.

    Raises:
        SweeperError: no checkpoint, or a tokenizer that is unknown or not the model's.
    """
    if not order.checkpoint.exists():
        raise SweeperError(f"there is no checkpoint {str(order.checkpoint)!r}; name a file or a run's folder")
    name = order.tokenizer or _tokenizer_of(order.checkpoint)
    request = {
        "prompt": _ids(name, order.prompt, order.chat),
        "tokens": order.tokens,
        "seed": order.seed,
        "sampling": {"temperature": order.temperature, "top_k": order.top_k, "top_p": order.top_p},
    }
    stops = [*order.stops, *(MARKERS if order.chat else ())]
    environment = {**os.environ, **devices.environment(devices.resolve(order.device))}
    command = [sys.executable, "-m", "trainer", "sample", str(order.checkpoint)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(request))
        ended = _write(map(int, process.stdout), name, stops, console)
        if ended:
            process.terminate()
        problem = process.stderr.read().strip()
        if process.wait() and not ended:
            last = problem.splitlines()[-1] if problem else f"exit status {process.returncode}"
            raise SweeperError(f"the checkpoint could not be sampled: {last}")
    return 0


def _write(ids: Iterable[int], tokenizer: str, stops: Sequence[str], console: Console) -> bool:
    """Print the text of ids as they come; whether a stop string ended it."""
    known: list[int] = []
    text, shown, ended = "", 0, False
    for token in ids:
        known.append(token)
        text, ended = cut(decode.text_of(tokenizer, known), stops)
        sure = len(text) if ended else len(text) - unsure(text, stops)
        console.print(text[shown:sure], end="", markup=False, highlight=False, soft_wrap=True)
        shown = max(shown, sure)
        if ended:
            break
    console.print(text[shown:], markup=False, highlight=False, soft_wrap=True)
    return ended


def unsure(text: str, stops: Sequence[str]) -> int:
    """Letters at the end of a text that may not stay: half of one, or the beginning of a stop string."""
    half = len(text) - len(text.rstrip(decode.UNKNOWN))
    begun = (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
    return max(half, max(begun, default=0))


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first of the stop strings in it, and whether there is one."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _ids(name: str, prompt: str, chat: bool) -> list[int]:
    """Of a document that begins with the prompt."""
    tokenizer = tokenizers.load(name)
    asking, text = (ChatTokenizer(tokenizer), question(prompt)) if chat else (tokenizer, prompt)
    ids = asking.encode([text], [True])[0].tolist() if text else []
    return [tokenizer.separator, *ids]


def _tokenizer_of(checkpoint: Path) -> str:
    """Of the data that the run was trained on."""
    index = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / INDEX
    remedy = "name it with --tokenizer"
    try:
        folder = json.loads(index.read_bytes())["data"]
    except (OSError, ValueError, KeyError) as error:
        raise SweeperError(f"{index} does not say which tokenizer the model knows ({error!r}); {remedy}") from error
    try:
        name = load_manifest(Path(folder)).tokenizer
        tokenizers.check_name(name)
    except SweeperError as error:
        raise SweeperError(f"the tokenizer of {folder} is not to be had ({error}); {remedy}") from error
    return name
