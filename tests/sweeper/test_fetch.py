"""`sweeper data fetch` against a stand-in for the hub: what arrives, what is kept, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from sweeper import data, fetch
from sweeper.errors import SweeperError
from sweeper.shards import load_manifest
from tests.sweeper.golf_shards import encoded, train_model, write_shard
from tests.sweeper.hub import Hub

SOURCE = fetch.SOURCES["fineweb-sp1024"]
MODEL = "tokenizers/fineweb_1024_bpe.model"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Three training shards and one for validation, with model and manifest, laid out as they are published."""
    made = tmp_path / "made"
    model = train_model(made)
    library = sentencepiece.SentencePieceProcessor(model_file=str(model))
    stream = encoded([f"the sea number {number} was wide" for number in range(50)], library)
    write_shard(made / "shard.bin", stream)
    shard = (made / "shard.bin").read_bytes()
    stats = {"files_train": 3, "files_val": 1, "tokens_train": 3 * len(stream), "tokens_val": len(stream)}
    manifest = {
        "datasets": [{"name": SOURCE.name, "tokenizer_name": "sp_bpe_1024", "stats": stats}],
        "tokenizers": [{"name": "sp_bpe_1024", "model_path": MODEL}],
    }
    files = {SOURCE.shard("train", number): shard for number in range(3)}
    files |= {SOURCE.shard("val", 0): shard, f"{SOURCE.root}/{MODEL}": model.read_bytes()}
    hub = Hub(SOURCE.repository, files | {f"{SOURCE.root}/manifest.json": json.dumps(manifest).encode()})
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield hub
    hub.close()


def change(hub: Hub, **stats: int) -> None:
    path = f"{SOURCE.root}/manifest.json"
    manifest = json.loads(hub.files[path])
    manifest["datasets"][0]["stats"].update(stats)
    hub.files[path] = json.dumps(manifest).encode()


def test_what_arrives_is_checked_and_a_study_can_name_it(hub, tmp_path):
    seen: list[fetch.Progress] = []
    out = tmp_path / "out"

    made = fetch.fetch("fineweb-sp1024", 2, out, seen.append)

    assert sorted(path.name for path in out.iterdir()) == [
        "fineweb_1024_bpe.model",
        *(f"fineweb_train_00000{number}.bin" for number in range(2)),
        "fineweb_val_000000.bin",
        "published.json",
    ]
    assert [(step.number, step.files, step.fetched) for step in arrivals(seen)] == [(n, 4, True) for n in range(1, 5)]
    assert [step.file for step in arrivals(seen)][1:3] == ["fineweb_val_000000.bin", "fineweb_train_000000.bin"]
    assert (made.train_shards, made.published_shards, made.train_tokens) == (2, 3, 2 * made.val_tokens)
    linked = load_manifest(data.ensure(str(out), str(made.model), tmp_path / "home"))
    assert (linked.tokens("train"), linked.tokens("val")) == (made.train_tokens, made.val_tokens)


def test_more_shards_are_added_to_those_that_are_there(hub, tmp_path):
    fetch.fetch("fineweb-sp1024", 1, tmp_path / "out")
    hub.gets.clear()
    seen: list[fetch.Progress] = []

    assert fetch.fetch("fineweb-sp1024", 3, tmp_path / "out", seen.append).train_shards == 3

    assert [step.fetched for step in arrivals(seen)] == [False, False, False, True, True]
    assert [path for path, _ in hub.gets if "manifest" not in path] == [
        SOURCE.shard("train", number) for number in (1, 2)
    ]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("cut", r"fineweb_train_000000\.bin must have .* it is removed, and the same command fetches it again"),
        ("gone", r"cannot fetch .*fineweb_train_000000\.bin .*\n?.*goes on where this one stopped"),
        ("other val", r"the validation split in .* the hub's manifest says 7: scores would not be comparable"),
        ("large", r"only .* GB are free .* fewer --shards"),
        ("strange", r"does not describe fineweb10B_sp1024 as expected"),
    ],
)
def test_what_is_wrong_is_refused_and_the_same_command_mends_it(damage, said, hub, tmp_path):
    kept = dict(hub.files)
    if damage == "cut":
        hub.files[SOURCE.shard("train", 0)] = hub.files[SOURCE.shard("train", 0)][:-2]
    elif damage == "gone":
        del hub.files[SOURCE.shard("train", 0)]
    elif damage == "other val":
        change(hub, tokens_val=7)
    elif damage == "large":
        change(hub, tokens_train=10**15)
    else:
        hub.files[f"{SOURCE.root}/manifest.json"] = b'{"datasets": []}'

    with pytest.raises(SweeperError, match=f"(?s){said}"):
        fetch.fetch("fineweb-sp1024", 1, tmp_path / "out")
    hub.files = kept
    assert fetch.fetch("fineweb-sp1024", 1, tmp_path / "out").train_shards == 1


def test_wrong_arguments_are_refused(hub, tmp_path):
    for name, shards, said in [
        ("fineweb", 1, "unknown data set 'fineweb': known are fineweb-sp1024"),
        ("fineweb-sp1024", 0, "--shards must be at least 1, got 0"),
        ("fineweb-sp1024", 4, "has 3 training shards, 4 are asked for"),
    ]:
        with pytest.raises(SweeperError, match=said):
            fetch.fetch(name, shards, tmp_path / "out")


def test_without_the_client_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as where it is not installed
    with pytest.raises(SweeperError, match="needs the extra golf: pip install huggingface-hub"):
        fetch.fetch("fineweb-sp1024", 1, tmp_path / "out")


def test_a_broken_connection_is_taken_up_again(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    path = SOURCE.shard("train", 0)
    hub.break_at = {path: 1000}

    fetch.fetch("fineweb-sp1024", 1, tmp_path / "out")

    ranges = [asked for file, asked in hub.gets if file == path]
    assert ranges == ["", *(f"bytes={begin}-" for begin in range(1000, len(hub.files[path]), 1000))][: len(ranges)]
    assert len(ranges) > 1 and (tmp_path / "out" / "fineweb_train_000000.bin").read_bytes() == hub.files[path]


def test_a_file_that_changed_on_the_way_is_refused(hub, tmp_path):
    hub.damaged.add(SOURCE.shard("train", 0))
    with pytest.raises(SweeperError, match="arrived damaged; the same command fetches it again"):
        fetch.fetch("fineweb-sp1024", 1, tmp_path / "out")
    hub.damaged.clear()
    assert fetch.fetch("fineweb-sp1024", 1, tmp_path / "out").train_shards == 1


def test_a_killed_download_goes_on_where_it_stopped(hub, tmp_path):
    """Through the command line."""
    large = np.random.default_rng(0).integers(300, size=8_000_000)
    large[0] = 1
    write_shard(tmp_path / "large.bin", large)
    hub.files[SOURCE.shard("train", 0)] = (tmp_path / "large.bin").read_bytes()
    hub.stall_after = 12 * 2**20
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from sweeper.cli import main; main()", "data", "fetch", "fineweb-sp1024"]
    command += ["--shards", "1", "--out", str(out)]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    with subprocess.Popen(command, env=environment, **pipes) as child:
        deadline = time.monotonic() + 60
        while arrived(out) < 10 * 2**20:
            assert child.poll() is None, child.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.kill()
    kept = arrived(out)
    assert not (out / "fineweb_train_000000.bin").exists()
    hub.stall_after = None
    hub.gets.clear()
    done = subprocess.run(command, env=environment, timeout=60, **pipes)

    assert done.returncode == 0, done.stderr
    assert hub.gets[-1] == (SOURCE.shard("train", 0), f"bytes={kept}-")
    assert (out / "fineweb_train_000000.bin").read_bytes() == hub.files[SOURCE.shard("train", 0)]
    assert "[2/3] fineweb_val_000000.bin, 0 MB, was there\n[3/3] fineweb_train_000000.bin, 16 MB\n" in done.stdout
    assert f'data = {{ name = "{out}", tokenizer = "{out}/fineweb_1024_bpe.model" }}' in done.stdout
    assert "only 1 of 3 shards" in done.stdout


def arrivals(seen: list[fetch.Progress]) -> list[fetch.Progress]:
    """What was reported of files in their place."""
    last = {step.file: step for step in seen}
    assert all(step.bytes_done == step.bytes for step in last.values())
    return list(last.values())


def arrived(out: Path) -> int:
    """Bytes of the training shard that have arrived."""
    return max((path.stat().st_size for path in out.glob(".fetching/*train*")), default=0)
