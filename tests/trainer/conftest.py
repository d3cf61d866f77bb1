"""A tiny prepared folder and configs that train in a second."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

VOCAB = 64


def write_shard(path: Path, tokens: np.ndarray) -> None:
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(tokens)
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())


@pytest.fixture(scope="session")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learnable stream: each token follows from the one before with some noise; every token is 2 bytes."""
    out = tmp_path_factory.mktemp("stream")
    generator = np.random.default_rng(0)
    for split, count in (("train", 20_000), ("val", 2_000)):
        tokens = np.zeros(count, dtype=np.int64)
        for i in range(1, count):
            tokens[i] = generator.integers(VOCAB) if generator.random() < 0.2 else (5 * tokens[i - 1] + 7) % VOCAB
        write_shard(out / f"{split}_000000.bin", tokens)
    np.save(out / "token_bytes.npy", np.full(VOCAB, 2, dtype=np.int16))
    return out


@pytest.fixture
def folder(stream: Path, tmp_path: Path) -> Path:
    """A copy of the stream, to change at will."""
    return Path(shutil.copytree(stream, tmp_path / "data"))


@pytest.fixture
def values(folder: Path) -> dict[str, Any]:
    """Values of a TrainConfig: 12 steps of a 2-layer model."""
    return {
        "model": {"vocab_size": VOCAB, "num_layers": 2, "model_dim": 32, "num_heads": 4, "num_kv_heads": 2},
        "data": {"path": str(folder), "seq_len": 16, "batch_tokens": 256},
        "budget": {"steps": 12},
        "eval": {"fractions": [0.25, 0.5], "val_tokens": 512},
        "runtime": {"device": "cpu", "log_every_seconds": 0.0},
    }
