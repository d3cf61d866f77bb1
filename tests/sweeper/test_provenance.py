"""The commit of a run's code: from git, past the worker, into the run's row."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trainer
from sweeper import launch
from sweeper.foreign import ForeignProcess
from sweeper.protocol import CommandRun
from sweeper.provenance import commit_of
from sweeper.results import Results
from sweeper.service import Service
from tests.sweeper import talk
from tests.sweeper.test_foreign import STAND_INS, listen

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    shutil.copytree(STAND_INS, folder / "code")
    (folder / "notes.md").write_text("none")
    git(tmp_path, "init", "-q", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_the_commit_is_named_and_so_are_changes_to_the_code(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    (repository / "code" / "output.txt").write_text("not tracked")
    (repository / "notes.md").write_text("changed, and no code")
    assert commit_of(repository / "code") == head and len(head) == 40
    with (repository / "code" / "train_gpt.py").open("a") as file:
        file.write("\n")
    assert commit_of(repository / "code") == f"{head}-dirty"


def test_where_git_tracks_nothing_there_is_no_commit(repository: Path, tmp_path: Path, monkeypatch) -> None:
    installed = repository / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "package.py").write_text("")
    assert commit_of(installed) == ""
    (tmp_path / "plain").mkdir()
    assert commit_of(tmp_path / "plain") == commit_of(tmp_path / "gone") == ""
    git(tmp_path, "init", "-q", str(tmp_path / "empty"))
    (tmp_path / "empty" / "a.py").write_text("")
    git(tmp_path / "empty", "add", ".")
    assert commit_of(tmp_path / "empty") == "", "no commit yet"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(repository / "code") == "", "no git"


def test_a_command_says_the_commit_of_its_folder(repository: Path, tmp_path: Path) -> None:
    process = ForeignProcess("cpu", tmp_path / "places", stop_grace_seconds=2.0)
    environment = {"ITERATIONS": "10", "MAX_WALLCLOCK_SECONDS": "0", "VAL_LOSS_EVERY": "5", "MATRIX_LR": "0.03"}
    run = CommandRun(argv=[sys.executable, "train_gpt.py"], directory=str(repository / "code"), environment=environment)
    try:
        process.run(run.model_dump(), hang_seconds=30)
        (start,) = (event for event in listen(process) if event["event"] == "start")
    finally:
        process.kill()
    assert start["git_commit"] == git(repository, "rev-parse", "HEAD")


def test_our_own_trainer_is_asked_for_unless_another_one_is_given(monkeypatch) -> None:
    monkeypatch.delenv(launch.COMMAND_VARIABLE, raising=False)
    assert launch._own_commit() == commit_of(Path(trainer.__path__[0]))
    monkeypatch.setenv(launch.COMMAND_VARIABLE, f"{sys.executable} {os.devnull}")
    assert launch._own_commit() == ""


@pytest.mark.usefixtures("study")
def test_the_run_keeps_it(service: Service) -> None:
    grant = talk.take(service)
    talk.say(service, grant, {**talk.start(), "git_commit": "0123456789abcdef-dirty"})
    assert Results(service.engine).run(talk.SPEC["name"], "trial", grant.number).git_commit == "0123456789abcdef-dirty"
