"""Training logs, parameter-golf's, its forks' and modded-nanogpt's, as runs: by the thousand, in several processes.

What a log means is the business of `dialects` and `transcript`; here is which files are logs, which hyperparameters
they say, and what is wrong with those that make no run.  Only what a log prints is taken: the source that many begin
with has defaults in it that the environment may have changed.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import itertools
import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper import command, dialects
from sweeper.command import KNOB
from sweeper.dialects import Averaged, Fact, Final, Said, Train, Validation, ValidationLoss
from sweeper.errors import SweeperError
from sweeper.importing.names import IGNORED, ROLES, convert, known_paths, number, scaled, split
from sweeper.importing.runs import BITS, GROWN, NATS, THERE, Run, Skipped, checked, identity_of
from sweeper.importing.units import bits_per_byte
from sweeper.protocol import CommandRun
from sweeper.space import Value
from sweeper.transcript import Transcript
from trainer.events import End, Eval, Event, Outcome, Score, Step

SUFFIXES = (".log", ".txt", ".out")
LARGEST_BYTES = 1 << 28
FEWEST_FOR_PROCESSES = 64
FILES_A_TASK = 20

NO_LOG = "no training log"
NO_END = "no end"

CONSTANT_ROLES = ("parameters", "device_name")
"""Figures of a run that a constant may give where its log does not; it says all others itself."""

_DEVICE = re.compile(r"^\|\s+\d+\s+([A-Z][^|]*?\S)\s+(?:On|Off|N/A)\s*\|", re.MULTILINE)
"""The first device in the table of nvidia-smi, which many logs begin with."""
_SAID = re.compile(r"^[ \t]*[A-Za-z_]\w*:[ \t]?\S.*$", re.MULTILINE)
_PAIR = re.compile(r"(?<![\w/.])([A-Za-z_]\w*):[ \t]?(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What all files of an import are read with."""

    columns: Mapping[str, str]
    """Config path or `trainer.KNOB`, factors included, by the name that the logs have for it, beside the known ones."""
    known: frozenset[str]
    """Identities of runs that are stored."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Values by config path, knob or one of CONSTANT_ROLES, of logs that do not print them."""
    parameters_count: str = "unknown"
    """What numbers of parameters count; `model_params` as it is printed counts all weights."""
    bytes_per_token: float | None = None
    """Makes bits per byte of logs that say nats per token alone; None leaves their scores in nats."""


def find(sources: Iterable[str]) -> list[Path]:
    """The files that paths, folders and globs mean, without doubles; of a folder all *.log below it, else *.txt.

    Raises:
        SweeperError: a source that leads to no file.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            paths = next((some for s in SUFFIXES if (some := sorted(path.rglob(f"*{s}")))), [])
        elif path.is_file():
            paths = [path]
        else:
            paths = matching(source)
        if not paths:
            raise SweeperError(f"{source!r} leads to no log: give files, a folder with *.log below it, or a glob")
        found |= dict.fromkeys(paths)
    return list(found)


def matching(pattern: str) -> list[Path]:
    """Files that a glob means, `**` included, in order."""
    names = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207  # may be absolute
    return [path for path in map(Path, sorted(names)) if path.is_file()]


def read_all(paths: Sequence[Path], reading: Reading, processes: int | None = None) -> Iterator[Run | Skipped]:
    """One Run or Skipped for each file, in their order.

    Args:
        processes: None for one a core, and none beside this one for a few files.
    """
    wanted = min(os.cpu_count() or 1, 8) if processes is None else processes
    if wanted < 2 or (processes is None and len(paths) < FEWEST_FOR_PROCESSES):
        yield from (read(path, reading) for path in paths)
        return
    tasks = [(paths[at : at + FILES_A_TASK], reading) for at in range(0, len(paths), FILES_A_TASK)]
    # Not forked: this process has threads and an open database.
    with ProcessPoolExecutor(wanted, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from itertools.chain.from_iterable(pool.map(_read_some, tasks))


def _read_some(task: tuple[Sequence[Path], Reading]) -> list[Run | Skipped]:
    paths, reading = task
    return [read(path, reading) for path in paths]


def read(path: Path, reading: Reading) -> Run | Skipped:
    """The run that the log tells of; of several that were written one after another into it, the last."""
    source = str(path)
    try:
        status = path.stat()
        if status.st_size > LARGEST_BYTES:
            return Skipped(source=source, reason="too large", detail=f"{status.st_size:,} bytes")
        raw = path.read_bytes()
    except OSError as error:
        return Skipped(source=source, reason="unreadable", detail=error.strerror or "")
    content = hashlib.sha256(raw).hexdigest()
    if content in reading.known:
        return Skipped(source=source, reason=THERE)
    text = raw.decode("utf-8", "replace")
    values, problem = hyperparameters(text, reading.columns)
    printed = hyperparameters(text, {})[0] if reading.columns else dict(values)
    for target, raw in reading.constants.items():
        if target not in ROLES:
            values.setdefault(target, convert(target, raw))
    said, nats = _said(text, reading.bytes_per_token)
    told = _tell(said, values)
    if isinstance(told, str):
        reason, _, detail = told.partition(": ")
        return Skipped(source=source, reason=reason, detail=detail)
    if problem:
        return Skipped(source=source, reason="a value that does not parse", detail=problem)
    end, identity = told[-1], _identity(told, printed, nats=nats)
    if identity in reading.known:
        return Skipped(source=source, reason=THERE, detail=GROWN)
    assert isinstance(end, End)
    run = Run(source=source, identity=identity, content=content, values=values,
              name=path.stem if path.stem != "train" else path.parent.name,
              started_at=status.st_mtime - end.seconds,
              score_unit=NATS if nats and reading.bytes_per_token is None else BITS)  # fmt: skip
    run.tell(told, status.st_mtime)
    _complete(run, text, reading)
    return checked(run)


def _complete(run: Run, text: str, reading: Reading) -> None:
    """Parameters, what they count, and the device: what the log says, then what the constants do."""
    stated, run.parameters_count = run.parameters, reading.parameters_count
    if stated and run.parameters_count == "unknown":
        run.parameters_count = "all"
    elif not stated and "parameters" in reading.constants:
        run.parameters = round(number(reading.constants["parameters"]))
    found = _DEVICE.search(text)
    device = found.group(1) if found else str(reading.constants.get("device_name", ""))
    if run.devices > 1:
        device = f"{run.devices} × {device or 'unnamed device'}"
    run.device_name = device[:200]


def _identity(told: Sequence[Event], values: Mapping[str, Value], *, nats: bool) -> str:
    """Of the curve up to the last step and of the printed hyperparameters.

    So a log that was moved is the same run, and so is one into which something was written after its end; another run
    of the same values took other times.  Where a log has no times, its final scores count, too.
    """
    end = told[-1]
    assert isinstance(end, End)
    curve: list[tuple[str, int, float, float]] = []
    for event in told:
        if isinstance(event, Step):
            curve.append((event.kind, event.step, event.seconds, event.train_loss))
        elif isinstance(event, Eval) or (isinstance(event, (Outcome, Score)) and not end.seconds):
            score = event.val_loss if nats else event.val_bpb  # which depends on --bytes-per-token
            curve.append((event.kind, event.step, event.seconds, score))
    return identity_of("log", curve, dict(values), end.detail if end.reason == "diverged" else "")


def _said(text: str, bytes_per_token: float | None) -> tuple[list[Said], bool]:
    """What the log says, and whether its scores are losses in nats per token, as it nowhere has bits per byte.

    Such losses stand for bits per byte in it: as they are, or converted.
    """
    said = [item for line in text.splitlines() for item in dialects.parse(line)]
    nats = not any(isinstance(item, (Validation, Averaged, Final)) for item in said)
    found: list[Said] = []
    for item in said:
        if not isinstance(item, ValidationLoss):
            found.append(item)
        elif nats:
            loss = item.val_loss
            score = loss if bytes_per_token is None else bits_per_byte(loss, bytes_per_token)
            found.append(Validation(step=item.step, total=item.total, val_loss=loss, val_bpb=score,
                                    seconds=item.seconds))  # fmt: skip
    return found, nats and any(isinstance(item, ValidationLoss) for item in said)


def _tell(said: Sequence[Said], values: Mapping[str, Value]) -> list[Event] | str:
    """The events of the log, an End last; or `reason: detail` where it makes no run.

    Args:
        values: hyperparameters by path, of which the batch counts tokens.
    """
    cap = next((item.value for item in said if isinstance(item, Fact) and item.name == "max_wallclock_seconds"), 0.0)
    batch = values.get("data.batch_tokens")
    batch_tokens = batch if isinstance(batch, int) and batch > 0 else None
    plan = CommandRun(argv=["imported"], budget_seconds=cap or None, batch_tokens=batch_tokens)
    transcript = Transcript(plan, "", "")
    told: list[Event] = []
    last: Train | Validation | None = None
    seconds = 0.0
    for item in said:
        if isinstance(item, (Train, Validation)):
            last, seconds = item, item.seconds or seconds
        told += transcript.take(item, seconds)
        if told and isinstance(told[-1], End):
            return told
    if last is None:
        return NO_LOG
    told += transcript.finish(seconds)
    if isinstance(told[-1], End):
        return told
    return f"{NO_END}: it breaks off at step {last.step:,} of {last.total:,}, without a final score"


def hyperparameters(text: str, columns: Mapping[str, str]) -> tuple[dict[str, Value], str]:
    """Values by path as the log prints them, `name:value` on lines that begin so; and the first that does not parse.

    What is printed more than once, as by several ranks, counts once.
    """
    mapped = {name.lower(): split(target) for name, target in columns.items()}
    known = _known_names() | {name: path for name, (path, _) in mapped.items()}
    values: dict[str, Value] = {}
    for line in _SAID.finditer(text):
        pairs = _PAIR.findall(line.group())
        if not pairs or (pairs[0][0].lower() not in known and pairs[0][0] not in LEADERS):
            continue
        for name, raw in pairs:
            path = known.get(name.lower())
            if path is None or path in values or path in ROLES or path == IGNORED:
                continue
            try:
                _, factor = mapped.get(name.lower(), (path, 1.0))
                values[path] = convert(path, scaled(raw.rstrip(","), factor))
            except ValueError as error:
                return values, f"{name}:{raw}: {error}"
    return values, ""


LEADERS = ("attention_mode", "world_size", "train_batch_tokens")
"""Lines of the baseline that begin with something else than a hyperparameter of ours."""


@functools.cache
def _known_names() -> dict[str, str]:
    """Config paths, and knobs that have no config path, by the names that logs print, in lower case."""
    knobs = {"warmdown_iters": f"{KNOB}WARMDOWN_ITERS", "warmup_steps": f"{KNOB}WARMUP_STEPS"}
    own = {name.lower(): path for path, name in command.NAMES.items() if path not in ("data.path", "data.tokenizer")}
    return known_paths() | own | knobs
