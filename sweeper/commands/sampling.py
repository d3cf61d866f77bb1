"""`sweeper sample`: a checkpoint goes on with a prompt, written as it comes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
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
    device = devices.resolve(order.device)
    command = [sys.executable, "-m", "trainer", "sample", str(order.checkpoint)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **devices.environment(device)},
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(request))
        ids: list[int] = []
        shown = ""
        for line in process.stdout:
            ids.append(int(line))
            text, ended = cut(decode.text_of(name, ids), stops)
            if ended or not text.endswith(decode.UNKNOWN):  # half of a letter becomes whole with the next token
                console.print(text[len(shown) :], end="", markup=False, highlight=False, soft_wrap=True)
                shown = text
            if ended:
                process.terminate()
                break
        console.print()
        problem = process.stderr.read()
        if process.wait() and not (ids and problem == ""):
            last = problem.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
            raise SweeperError(f"the checkpoint could not be sampled: {last[0]}")
    return 0


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
