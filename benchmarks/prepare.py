"""`sweeper data prepare` of as much text as is asked for: speed, memory of its processes, how busy the cores are.

    python -m benchmarks.prepare [--megabytes 1000] [--text FILE] [--tokenizer gpt2] [--kind txt] [--kills 0]

The text is the packaged corpus, or FILE (plain or .xz), over and over, each copy of a document under a line of its own.
With --kills N the same is prepared a second time and killed with -9 that often on its way; the two folders must be
equal to the byte.  Busy is CPU seconds of all processes over cores x wall seconds; where other work shares the machine,
`of free` leaves out what that took.  Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.resources
import itertools
import json
import lzma
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import zstandard

SEPARATOR = "\n<|endoftext|>\n"
SAMPLE_SECONDS = 0.1
COMMAND = [sys.executable, "-m", "sweeper.cli", "data", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One preparation, of all the processes that it took."""

    wall_seconds: float
    megabytes_per_second: float
    """Of text, over wall seconds."""
    peak_megabytes: float
    """Largest sum of resident memory over the process tree, sampled, or of the process alone, as the kernel saw it."""
    busy: float
    """CPU seconds over cores x wall seconds."""
    busy_of_free: float
    """CPU seconds over those and the machine's idle ones: what busy would be without other work beside it."""
    kills: int


def documents(text: Path | None) -> list[str]:
    if text is None:
        packed = (importlib.resources.files("sweeper") / "assets" / "small" / "train.txt.zst").read_bytes()
        whole = zstandard.ZstdDecompressor().decompressobj().decompress(packed).decode()
    else:
        whole = (lzma.decompress(text.read_bytes()) if text.suffix == ".xz" else text.read_bytes()).decode()
    return [document for document in whole.split(SEPARATOR) if document]


def write(path: Path, texts: list[str], size: int) -> int:
    """Copies of the texts until the file has `size` bytes or a document more; its bytes."""
    with path.open("w") as file:
        for copy, text in ((copy, text) for copy in itertools.count() for text in texts):
            document = f"Copy {copy}, {len(text)} letters.\n{text}"
            file.write(json.dumps({"text": document}) + "\n" if path.suffix == ".jsonl" else document + SEPARATOR)
            if file.tell() >= size:
                break
    return path.stat().st_size


def resident(pid: int) -> int:
    """Bytes that a process and its children have in memory."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def idle_seconds() -> float:
    """Of all cores since the machine started."""
    times = psutil.cpu_times()
    return float(times.idle + getattr(times, "iowait", 0.0))


def prepare(source: Path, out: Path, tokenizer: str, megabytes: float, kill_after: Iterator[float]) -> Measured:
    """Run the command, killed after so many seconds as often as `kill_after` says, until it is done."""
    began, kills, peaks = time.perf_counter(), 0, [0]
    before, idle = resource.getrusage(resource.RUSAGE_CHILDREN), idle_seconds()
    for seconds in itertools.chain(kill_after, [float("inf")]):
        process = subprocess.Popen([*COMMAND, str(source), "--out", str(out), "--tokenizer", tokenizer])
        killer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), process.kill)
        killer.start()
        while process.poll() is None:
            peaks.append(resident(process.pid))
            time.sleep(SAMPLE_SECONDS)
        killer.cancel()
        if process.returncode == 0:
            break
        if process.returncode != -9:
            raise SystemExit(f"the preparation failed with exit code {process.returncode}")
        kills += 1
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter() - began
    seconds_used = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return Measured(
        wall_seconds=wall,
        megabytes_per_second=megabytes / wall,
        peak_megabytes=max(peaks) / 1e6,
        busy=seconds_used / (len(os.sched_getaffinity(0)) * wall),
        busy_of_free=seconds_used / (seconds_used + idle_seconds() - idle),
        kills=kills,
    )


def digest(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def show(what: str, found: Measured) -> None:
    print(
        f"{what:<22} {found.wall_seconds:8.1f} {found.megabytes_per_second:8.1f} {found.peak_megabytes:9.0f} "
        f"{found.busy:7.3f} {found.busy_of_free:9.3f} {found.kills:6}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=1000.0, help="of text")
    parser.add_argument("--text", type=Path, help="to repeat; the packaged corpus without it")
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--kind", choices=["txt", "jsonl"], default="txt")
    parser.add_argument("--kills", type=int, default=0, help="of a second preparation, spread over its time")
    parser.add_argument("--keep", type=Path, help="folder to work in and leave; a temporary one without it")
    arguments = parser.parse_args()
    work = arguments.keep or Path(tempfile.mkdtemp(prefix="sweeper-prepare-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        source = work / f"text.{arguments.kind}"
        megabytes = write(source, documents(arguments.text), int(arguments.megabytes * 1e6)) / 1e6
        plain = prepare(source, work / "plain", arguments.tokenizer, megabytes, iter(()))
        summary = {"tokenizer": arguments.tokenizer, "megabytes": megabytes, "cores": len(os.sched_getaffinity(0))}
        summary |= asdict(plain)
        print(f"{'':<22}   wall s     MB/s   peak MB    busy   of free  kills")
        show("unbroken", plain)
        if arguments.kills:
            between = plain.wall_seconds / (arguments.kills + 1)
            waits = (between for _ in range(arguments.kills))
            killed = prepare(source, work / "killed", arguments.tokenizer, megabytes, waits)
            show("killed and gone on", killed)
            same = digest(work / "plain") == digest(work / "killed")
            print("equal to the byte" if same else "NOT EQUAL")
            summary |= {"killed": asdict(killed), "equal": same}
        print(json.dumps(summary))
    finally:
        if arguments.keep is None:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
