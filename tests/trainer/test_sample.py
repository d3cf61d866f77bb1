"""`python -m trainer sample`: ids from a checkpoint, or a message and exit status 2."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import VOCAB
from trainer.config import TrainConfig
from trainer.loop import train
from trainer.sample import run


@pytest.fixture
def saved(values: dict[str, Any], tmp_path: Path) -> Path:
    """The checkpoints of a short run."""
    folder = tmp_path / "run"
    said: list[Any] = []
    config = values | {"checkpoint": {"path": str(folder)}, "eval": {"val_tokens": 512}, "budget": {"steps": 3}}
    train(TrainConfig.from_dict(config), said.append, lambda: False)
    assert said[-1].reason == "complete"
    return folder


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


def request(**changes: Any) -> str:
    return json.dumps({"prompt": [1, 2, 3], "tokens": 6, "device": "cpu"} | changes)


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """The command's own function in this process, its request on stdin: another one imports torch anew."""

    def ask(path: Path, **changes: Any) -> Answer:
        monkeypatch.setattr(sys, "stdin", io.StringIO(request(**changes)))
        status = run(path)
        told = capsys.readouterr()
        return Answer(status, told.out, told.err)

    return ask


def test_a_checkpoint_and_its_folder_say_the_same_for_a_seed(saved: Path, sample: Callable[..., Answer]) -> None:
    words = [sys.executable, "-m", "trainer", "sample", str(saved)]
    by_folder = subprocess.run(words, input=request(seed=1), capture_output=True, text=True, timeout=60, check=False)
    ids = [int(line) for line in by_folder.stdout.splitlines()]
    assert by_folder.returncode == 0 and len(ids) == 6 and all(0 <= token < VOCAB for token in ids)
    assert sample(next(saved.glob("*.pt")), seed=1) == Answer(0, by_folder.stdout, "")
    assert sample(saved, seed=2).out != by_folder.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"prompt": [VOCAB]}, f"beyond the model's {VOCAB} words"), ({"prompt": []}, "the prompt is empty"),
     ({"sampling": {"top_p": 2}}, "top_p must be in")],
)  # fmt: skip
def test_what_cannot_be_sampled_is_told_in_one_line(
    saved: Path, sample: Callable[..., Answer], changes: dict[str, Any], message: str
) -> None:
    found = sample(saved, **changes)
    assert found.status == 2 and message in found.err and found.err.count("\n") == 1 and not found.out


def test_a_folder_without_checkpoints_is_named(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "trainer", "sample", str(tmp_path)]
    found = subprocess.run(words, input=request(), capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 2 and str(tmp_path) in found.stderr and "no checkpoint" in found.stderr
    assert "Traceback" not in found.stderr
