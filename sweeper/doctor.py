"""What is wrong on this machine, and how to mend it.  Looks, changes nothing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from rich.console import Console
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from sweeper import devices, display, files, hosting, launch, storage, study
from sweeper.children import process_lives
from sweeper.errors import SweeperError
from sweeper.settings import Settings
from sweeper.tables import LeaseRow, WorkerRow

Level = Literal["ok", "warning", "error"]
MARKS: dict[Level, str] = {
    "ok": "[green]ok     [/green]",
    "warning": "[yellow]warning[/yellow]",
    "error": "[red]error  [/red]",
}
LEAST_DISK_BYTES = 500 * 2**20
LITTLE_DISK_BYTES = 5 * 2**30
ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
    "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "mps": torch.backends.mps.is_available(),
    "threads": torch.get_num_threads(),
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at."""

    level: Level
    subject: str
    detail: str
    remedy: str = ""


def report(settings: Settings, console: Console) -> int:
    """Print every finding; the exit status, 1 when there is an error."""
    worst = 0
    for finding in examine(settings):
        console.print(f"{MARKS[finding.level]} {finding.subject}: ", end="", highlight=False)
        display.say(console, finding.detail)
        if finding.remedy:
            display.say(console, f"        → {finding.remedy}")
        worst = max(worst, finding.level == "error")
    return int(worst)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check, the quick ones first."""
    yield _python()
    yield from packages(importlib.metadata.requires("sweeper") or [])
    yield _disk(settings.home)
    yield _port(settings)
    yield _data(settings.home)
    yield from _studies()
    yield from database(settings)
    yield from _torch()


def _python() -> Finding:
    detail = f"{platform.python_version()} at {sys.executable}, {os.cpu_count()} cores"
    return Finding(level="ok", subject="python", detail=detail)


def packages(requirements: list[str]) -> Iterator[Finding]:
    """A finding for each required package that is missing or outside its range, or one that all are well."""
    versions = []
    broken = False
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        mend = f'pip install "{requirement.name}{requirement.specifier}"'
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            broken = True
            yield Finding(level="error", subject=requirement.name, detail="is not installed", remedy=mend)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            broken = True
            detail = f"{found} is installed, {requirement.specifier} is needed"
            yield Finding(level="error", subject=requirement.name, detail=detail, remedy=mend)
        versions.append(f"{requirement.name} {found}")
    if not broken:
        yield Finding(level="ok", subject="packages", detail=", ".join(versions))


def _disk(home: Path) -> Finding:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{free / 2**30:.1f} GiB free for {home}"
    remedy = "free some space, or set SWEEPER_HOME to a larger disk"
    if not os.access(existing, os.W_OK):
        remedy = f"make {existing} writable, or set SWEEPER_HOME to another folder"
        return Finding(level="error", subject="disk", detail=f"{existing} cannot be written", remedy=remedy)
    if free < LEAST_DISK_BYTES:
        return Finding(level="error", subject="disk", detail=detail, remedy=remedy)
    if free < LITTLE_DISK_BYTES:
        return Finding(level="warning", subject="disk", detail=detail, remedy=remedy)
    return Finding(level="ok", subject="disk", detail=detail)


def _port(settings: Settings) -> Finding:
    url = hosting.running_url(settings)
    if url is not None:
        return Finding(level="ok", subject="service", detail=f"runs at {url}")
    try:
        hosting.free_port("127.0.0.1", hosting.DEFAULT_PORT)
    except SweeperError:
        detail = f"none runs; port {hosting.DEFAULT_PORT} is taken by something else"
        remedy = "nothing to do: a free port is chosen (or give --port)"
        return Finding(level="warning", subject="service", detail=detail, remedy=remedy)
    return Finding(level="ok", subject="service", detail=f"none runs; port {hosting.DEFAULT_PORT} is free")


def _data(home: Path) -> Finding:
    prepared = sorted(manifest.parent.name for manifest in (home / "data").glob("*/manifest.json"))
    detail = ", ".join(prepared) if prepared else "nothing prepared yet; the first trial prepares the packaged corpus"
    return Finding(level="ok", subject="data", detail=detail)


def _studies() -> Iterator[Finding]:
    well = []
    for name in files.available():
        try:
            study.load(name, "cpu")
            study.load(name, "gpu")
        except SweeperError as error:
            remedy = "mend the file as the message says"
            yield Finding(level="error", subject=f"study {name}", detail=str(error), remedy=remedy)
        else:
            well.append(name)
    if well:
        yield Finding(level="ok", subject="studies", detail=", ".join(well))


def database(settings: Settings) -> Iterator[Finding]:
    """Whether the storage answers, is of this version, takes writes, and holds nothing forgotten."""
    try:
        url = storage.parse_url(settings.storage)
    except SweeperError as error:
        yield Finding(level="error", subject="storage", detail=str(error), remedy="mend SWEEPER_STORAGE")
        return
    shown = url.render_as_string()
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        yield Finding(level="ok", subject="storage", detail=f"{shown} will be made by the first launch")
        return
    engine = storage.open_engine(settings.storage)
    try:
        yield from _tables(engine, shown)
    except SQLAlchemyError as error:
        detail = f"{shown} does not answer or cannot be written: {str(error).splitlines()[0]}"
        remedy = "check that the server runs, name and password in SWEEPER_STORAGE, and the file's permissions"
        yield Finding(level="error", subject="storage", detail=detail, remedy=remedy)
    finally:
        engine.dispose()


def _tables(engine: Engine, shown: str) -> Iterator[Finding]:
    wanted = storage.newest_revision()
    with storage.write(engine) as session:
        found = storage.revision(session.connection())
    if found is None:
        yield Finding(level="ok", subject="storage", detail=f"{shown} is empty; the first launch fills it")
        return
    if found != wanted:
        detail = f"{shown} is at revision {found}, this version of sweeper is at {wanted}"
        remedy = "start the service once to migrate it; if it is newer, install the newer sweeper"
        yield Finding(level="warning", subject="storage", detail=detail, remedy=remedy)
        return
    yield Finding(level="ok", subject="storage", detail=f"{shown} answers, revision {found}")
    yield from _orphans(engine)


def _orphans(engine: Engine) -> Iterator[Finding]:
    with storage.read(engine) as session:
        workers = session.scalars(select(WorkerRow).where(WorkerRow.state != "gone")).all()
        open_leases = session.scalars(select(LeaseRow).where(LeaseRow.ended_at.is_(None))).all()
    here = [worker for worker in workers if worker.host == platform.node()]
    dead = {worker.id for worker in here if not process_lives(worker.pid)}
    if dead:
        detail = f"{', '.join(sorted(dead))}: no such process any more"
        remedy = "nothing to do: the next launch frees what they held"
        yield Finding(level="warning", subject="workers", detail=detail, remedy=remedy)
    else:
        yield Finding(level="ok", subject="workers", detail=f"{len(workers)} known and alive or elsewhere")
    late = [lease for lease in open_leases if lease.expires_at < time.time()]
    if late:
        longest = display.duration(time.time() - min(lease.expires_at for lease in late))
        detail = f"{len(late)} held past their time, by up to {longest}: no service is watching"
        remedy = "start the service (sweeper serve, or sweeper launch): it repeats or resumes those runs"
        yield Finding(level="warning", subject="leases", detail=detail, remedy=remedy)
    else:
        yield Finding(level="ok", subject="leases", detail=f"{len(open_leases)} open, none overdue")


def _torch() -> Iterator[Finding]:
    """Asked in a process of its own, so that this one stays free of torch."""
    mend = 'pip install "torch>=2.9" (for NVIDIA GPUs the CUDA build, see pytorch.org/get-started)'
    try:
        answer = subprocess.run(
            [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, timeout=180, check=True
        )
    except subprocess.TimeoutExpired:
        remedy = "try again when the disk is less busy"
        yield Finding(level="error", subject="torch", detail="import takes over 3 minutes", remedy=remedy)
        return
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding(level="error", subject="torch", detail=f"cannot be imported: {last}", remedy=mend)
        return
    yield torch_finding(json.loads(answer.stdout), [gpu.name for gpu in devices.gpus()], mend)
    if given := os.environ.get(launch.COMMAND_VARIABLE):
        yield Finding(level="ok", subject="trainer", detail=f"{launch.COMMAND_VARIABLE} is set: {given}")


def torch_finding(torch: dict[str, Any], gpus: list[str], mend: str) -> Finding:
    """What torch sees against what nvidia-smi sees."""
    seen = ", ".join(torch["devices"]) or ("MPS" if torch["mps"] else f"the CPU alone, {torch['threads']} threads")
    detail = f"{torch['torch']}, CUDA {torch['cuda'] or 'not built in'}, sees {seen}"
    if len(gpus) > len(torch["devices"]):
        detail += f"; nvidia-smi shows {', '.join(gpus)}"
        remedy = mend if torch["cuda"] is None else "the driver may be older than this CUDA: see nvidia-smi"
        return Finding(level="error", subject="torch", detail=detail, remedy=remedy)
    return Finding(level="ok", subject="torch", detail=detail)
