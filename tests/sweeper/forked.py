"""The command line in processes of its own, forked from one that has imported the libraries that it will need.

A command spends most of its time on imports that are none of ours. Of sweeper nothing is imported beforehand: each
process executes its code from the start, as `python -m sweeper.cli` does.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

LIBRARIES = [
    *("typer", "rich.table", "rich.live", "httpx", "pydantic", "fastapi", "uvicorn", "numpy", "pyarrow.parquet"),
    *("scipy.stats", "scipy.optimize", "sqlalchemy.orm", "sqlalchemy.dialects.sqlite", "alembic.command"),
    *("optuna.storages._rdb.storage", "optuna.samplers", "optuna.importance"),
]

forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(LIBRARIES)


def sweeper(
    *words: object, environment: Mapping[str, str], folder: Path | None = None, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `sweeper WORDS` to its end in `folder`; its output is text.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds, and was killed.
    """
    arguments = [str(word) for word in words]
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        process = forking.Process(
            target=_execute, args=(arguments, dict(environment), str(folder or Path.cwd()), out.name, err.name)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["sweeper", *arguments], timeout, out.read(), err.read())
        said, complained = (Path(file.name).read_text() for file in (out, err))
        return subprocess.CompletedProcess(["sweeper", *arguments], process.exitcode, said, complained)


def _execute(arguments: list[str], environment: dict[str, str], folder: str, out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for name, number in ((out, 1), (err, 2)):
        file = os.open(name, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["sweeper", *arguments]
    runpy.run_module("sweeper.cli", run_name="__main__", alter_sys=True)
