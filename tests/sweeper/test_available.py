"""What a planner is told of a folder is what a trainer finds there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sweeper import data, tokenizers
from sweeper.available import available, require_tokens
from sweeper.errors import SweeperError
from sweeper.shards import Manifest, load_manifest, read_shard
from trainer.batches import TrainBatches, batches_for
from trainer.config import DataConfig, TrainConfig
from trainer.data import DataError, open_corpus

CPU = torch.device("cpu")
TEXTS = [" ".join(["some", "words", "here"] * (1 + number * 7 % 40)) + f" {number}" for number in range(300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source") / "source.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    out = source.parent / "out"
    data.prepare([source], "gpt2", out, val_fraction=0.1, reserve_tokens=4_000, shard_tokens=3_000)
    return out


def trainer_batches(folder: Path, values: DataConfig) -> TrainBatches:
    config = TrainConfig(data=values)
    return batches_for(open_corpus(folder, CPU, values.split), config)


@pytest.mark.parametrize("split", ["train", "reserve"])
@pytest.mark.parametrize("windows", ["stream", "documents"])
def test_the_planner_counts_what_the_trainer_trains_on(split, windows, folder):
    values = DataConfig(split=split, windows=windows, seq_len=32, batch_tokens=128)

    found = available(folder, values)

    batches = trainer_batches(folder, values)
    assert found.windows == found.count.windows == len(batches) > 20
    assert found.positions == 32 * found.windows
    assert found.steps == found.windows // 4
    _, targets = batches.take(len(batches))
    assert int((targets >= 0).sum()) == found.targets == found.count.targets
    assert batches.targets == (None if windows == "stream" else found.targets)


def test_a_later_phase_has_what_the_one_before_left(folder):
    whole = available(folder, DataConfig(seq_len=32, batch_tokens=64))
    rest = available(folder, DataConfig(seq_len=32, batch_tokens=64, start_window=100))
    beyond = available(folder, DataConfig(seq_len=32, batch_tokens=64, start_window=10**9))

    assert rest.windows == whole.windows - 100
    assert (rest.steps, rest.targets) == (rest.windows // 2, 32 * rest.windows)
    assert (beyond.windows, beyond.steps, beyond.targets) == (0, 0, 0)


def test_a_run_that_would_repeat_its_data_is_refused_with_what_there_is(folder):
    values = DataConfig(seq_len=32, batch_tokens=64)
    steps = available(folder, values).steps

    assert require_tokens(folder, values, steps * 64).steps == steps
    with pytest.raises(
        SweeperError, match=rf"wants {steps * 64 + 1:,} tokens \({steps + 1:,} steps of 64\).*{steps:,} st"
    ):
        require_tokens(folder, values, steps * 64 + 1)
    later = DataConfig(seq_len=32, batch_tokens=64, start_window=10)
    with pytest.raises(SweeperError, match="windows of 32 after the first 10: "):
        require_tokens(folder, later, steps * 64)


def test_the_reserve_is_of_that_size_evenly_spread_and_read_by_nobody_else(folder):
    manifest = load_manifest(folder)
    longest = max(len(text) for text in TEXTS)
    assert 4_000 <= manifest.tokens("reserve") < 4_000 + longest
    assert all((folder / shard.file).name.startswith(f"{shard.split}_") for shard in manifest.shards)

    numbers = {split: documents(folder, manifest, split) for split in ("train", "val", "reserve")}

    assert sorted(number for found in numbers.values() for number in found) == list(range(len(TEXTS)))
    thirds = np.histogram(numbers["reserve"], bins=3, range=(0, len(TEXTS)))[0]
    assert thirds.min() > 0.5 * thirds.max(), "a sample of all of the input"
    assert numbers["val"] == documents(*prepared_without_reserve(folder), "val"), "val is what it is without a reserve"


def prepared_without_reserve(folder: Path) -> tuple[Path, Manifest]:
    out = folder.parent / "plain"
    return out, data.prepare([folder.parent / "source.jsonl"], "gpt2", out, val_fraction=0.1, shard_tokens=3_000)


def documents(folder: Path, manifest: Manifest, split: str) -> list[int]:
    """The numbers at the ends of a split's documents."""
    stream = np.concatenate([read_shard(folder / shard.file) for shard in manifest.shards if shard.split == split])
    runs = np.split(stream, np.flatnonzero(stream == manifest.separator))[1:]
    texts = [tokenizers.encoding("gpt2").decode(run[1:].tolist()) for run in runs]
    assert all(text in TEXTS for text in texts)
    return [int(text.split()[-1]) for text in texts]


def test_a_folder_without_the_split_is_refused_by_both(folder):
    plain, _ = prepared_without_reserve(folder)
    values = DataConfig(split="reserve", seq_len=32, batch_tokens=64)
    with pytest.raises(SweeperError, match="has no split 'reserve'; prepare it with --reserve-tokens"):
        available(plain, values)
    with pytest.raises(DataError, match=r"no reserve shards .*--reserve-tokens N"):
        open_corpus(plain, CPU, "reserve")


def test_a_reserve_that_leaves_nothing_to_train_on_is_refused(folder, tmp_path):
    source = folder.parent / "source.jsonl"
    with pytest.raises(SweeperError, match=r"--reserve-tokens 10,000,000 leaves nothing .* only [0-9,]+ tokens"):
        data.prepare([source], "gpt2", tmp_path / "out", val_fraction=0.1, reserve_tokens=10_000_000)
    assert list(tmp_path.iterdir()) == []


def test_the_trainer_refuses_a_folder_that_lacks_what_its_manifest_lists(folder, tmp_path):
    source = folder.parent / "source.jsonl"
    out = tmp_path / "out"
    data.prepare([source], "gpt2", out, val_fraction=0.1, shard_tokens=3_000)
    first, second = sorted(out.glob("train_*.bin"))[:2]
    kept = second.read_bytes()
    second.write_bytes(first.read_bytes()[:4] + kept[4:-2])
    with pytest.raises(DataError, match=r"train_000001\.bin: header says"):
        open_corpus(out, CPU)
    shorter = bytearray(kept[:-2])
    shorter[8:12] = np.int32(2_999).tobytes()
    second.write_bytes(shorter)
    with pytest.raises(DataError, match=r"has 2999 tokens, manifest\.json says 3000"):
        open_corpus(out, CPU)
    second.unlink()
    with pytest.raises(DataError, match=r"train_000001\.bin is missing, though manifest\.json lists it"):
        open_corpus(out, CPU)
