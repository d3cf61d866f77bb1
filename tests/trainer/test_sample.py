"""`python -m trainer sample`: ids from a checkpoint, or a message and exit status 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import VOCAB
from trainer.config import TrainConfig
from trainer.loop import train


@pytest.fixture
def saved(values: dict[str, Any], tmp_path: Path) -> Path:
    """The checkpoints of a short run."""
    folder = tmp_path / "run"
    said: list[Any] = []
    config = values | {"checkpoint": {"path": str(folder)}, "eval": {"val_tokens": 512}, "budget": {"steps": 3}}
    train(TrainConfig.from_dict(config), said.append, lambda: False)
    assert said[-1].reason == "complete"
    return folder


def sample(path: Path, **request: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "trainer", "sample", str(path)]
    asked = json.dumps({"prompt": [1, 2, 3], "tokens": 6, "device": "cpu"} | request)
    return subprocess.run(words, input=asked, capture_output=True, text=True, timeout=60, check=False)


def test_a_checkpoint_and_its_folder_say_the_same_for_a_seed(saved: Path) -> None:
    by_folder, again = sample(saved, seed=1), sample(next(saved.glob("*.pt")), seed=1)
    ids = [int(line) for line in by_folder.stdout.splitlines()]
    assert by_folder.returncode == 0 and len(ids) == 6 and all(0 <= token < VOCAB for token in ids)
    assert again.stdout == by_folder.stdout
    assert sample(saved, seed=2).stdout != by_folder.stdout


@pytest.mark.parametrize(
    ("request_", "message"),
    [({"prompt": [VOCAB]}, f"beyond the model's {VOCAB} words"), ({"prompt": []}, "the prompt is empty"),
     ({"sampling": {"top_p": 2}}, "top_p must be in")],
)  # fmt: skip
def test_what_cannot_be_sampled_is_told_in_one_line(saved: Path, request_: dict[str, Any], message: str) -> None:
    found = sample(saved, **request_)
    assert found.returncode == 2 and message in found.stderr and "Traceback" not in found.stderr


def test_a_folder_without_checkpoints_is_named(tmp_path: Path) -> None:
    found = sample(tmp_path)
    assert found.returncode == 2 and str(tmp_path) in found.stderr and "no checkpoint" in found.stderr
