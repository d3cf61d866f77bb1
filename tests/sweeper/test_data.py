"""Prepared folders: whole or absent, right to the token, and made in bounded memory."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from sweeper import data, shards, tokenizers
from sweeper.errors import SweeperError
from sweeper.shards import load_manifest, read_shard, verify

TEXTS = [f"Document {number} says hello, Zürich!\n\nIt ends." for number in range(400)]
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "source.txt"
    path.write_text("".join(f"{text}\n<|endoftext|>\n" for text in TEXTS))
    return path


def documents(folder: Path, split: shards.Split, tokenizer: str) -> list[str]:
    """The texts of a split, decoded from its shards."""
    manifest = load_manifest(folder)
    ids = np.concatenate([read_shard(folder / shard.file) for shard in manifest.shards if shard.split == split])
    assert ids[0] == manifest.separator
    runs = np.split(ids, np.flatnonzero(ids == manifest.separator))[1:]
    return [tokenizers.encoding(tokenizer).decode(run[1:].tolist()) for run in runs]


@pytest.mark.parametrize("tokenizer", ["sweeper1024", "gpt2"])
def test_prepared_tokens_decode_to_the_input(tokenizer, source, tmp_path):
    out = tmp_path / "deep" / "out"

    manifest = data.prepare([source], tokenizer, out, val_fraction=0.1)

    train, val = documents(out, "train", tokenizer), documents(out, "val", tokenizer)
    assert sorted(train + val) == sorted(TEXTS)
    assert [text for text in TEXTS if text in train] == train
    assert 20 <= len(val) <= 60
    assert verify(out) == manifest
    assert (manifest.documents("train"), manifest.documents("val")) == (len(train), len(val))
    assert manifest.text_bytes("val") == sum(len(text.encode()) for text in val)
    assert np.array_equal(np.load(out / "token_bytes.npy"), tokenizers.token_bytes(tokenizer))


def test_shards_have_the_published_header_and_size(source, tmp_path):
    out = tmp_path / "out"

    manifest = data.prepare([source], "sweeper1024", out, val_paths=[source], shard_tokens=1000)

    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["manifest.json", "token_bytes.npy", *(shard.file for shard in manifest.shards)]
    )
    for shard in manifest.shards:
        raw = (out / shard.file).read_bytes()
        assert np.frombuffer(raw, "<i4", 4).tolist() == [20240520, 1, shard.tokens, 0]
        assert len(raw) == 1024 + 2 * shard.tokens
    train = [shard for shard in manifest.shards if shard.split == "train"]
    assert [shard.file for shard in train[:2]] == ["train_000000.bin", "train_000001.bin"]
    assert [shard.tokens for shard in train[:-1]] == [1000] * (len(train) - 1)
    assert documents(out, "train", "sweeper1024") == documents(out, "val", "sweeper1024") == TEXTS


def test_the_draw_of_val_does_not_depend_on_order_or_files(source, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"body": text}) + "\n" for text in reversed(TEXTS)))

    data.prepare([source], "sweeper1024", tmp_path / "a", val_fraction=0.1)
    data.prepare([rows], "sweeper1024", tmp_path / "b", val_fraction=0.1, column="body")

    assert documents(tmp_path / "a", "val", "sweeper1024") == documents(tmp_path / "b", "val", "sweeper1024")[::-1]


def test_one_long_document_is_drawn_in_parts_and_loses_nothing(tmp_path):
    path = tmp_path / "long.txt"
    text = "".join(f"Line {number} of a long text without separators.\n" for number in range(150_000))
    path.write_text(text)

    manifest = data.prepare([path], "sweeper1024", tmp_path / "out", val_fraction=0.3)

    assert manifest.text_bytes("train") + manifest.text_bytes("val") == len(text)
    parts = documents(tmp_path / "out", "train", "sweeper1024") + documents(tmp_path / "out", "val", "sweeper1024")
    assert all(part in text for part in parts)
    assert manifest.documents("train") + manifest.documents("val") == len(parts) > 1


def test_progress_rises_to_all_bytes(source, tmp_path):
    seen: list[data.Progress] = []

    manifest = data.prepare([source], "gpt2", tmp_path / "out", val_paths=[source], progress=seen.append)

    assert [entry.bytes_done for entry in seen] == sorted(entry.bytes_done for entry in seen)
    assert seen[-1].bytes_done == seen[-1].bytes_total == 2 * source.stat().st_size
    assert seen[-1].tokens == manifest.tokens("train") + manifest.tokens("val")
    assert seen[-1].documents == 2 * len(TEXTS)


def test_the_same_data_are_left_and_other_data_are_refused(source, tmp_path):
    out = tmp_path / "out"
    first = data.prepare([source], "sweeper1024", out, val_fraction=0.1)
    written = (out / "manifest.json").stat().st_mtime_ns

    assert data.prepare([source], "sweeper1024", out, val_fraction=0.1) == first
    assert (out / "manifest.json").stat().st_mtime_ns == written
    with pytest.raises(SweeperError, match=r"already holds other data .* by sweeper1024\): choose another folder"):
        data.prepare([source], "gpt2", out, val_fraction=0.1)
    with pytest.raises(SweeperError, match="already holds other data"):
        data.prepare([source], "sweeper1024", out, val_fraction=0.2)
    assert verify(out) == first


def test_a_folder_of_other_things_is_not_touched(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()

    with pytest.raises(SweeperError, match="exists and is no prepared data folder"):
        data.prepare([source], "sweeper1024", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "there is no text in the input"),
        ("<|endoftext|>\n", "there is no text in the input"),
        ("one document\n", "none of the 1 documents fell into val .* --val"),
        (b"\xff\n", "not UTF-8"),
    ],
)
def test_bad_input_leaves_nothing_behind(content, said, tmp_path):
    path = tmp_path / "source.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(SweeperError, match=said):
        data.prepare([path], "sweeper1024", tmp_path / "out")

    assert list(tmp_path.iterdir()) == [path]


def test_a_fault_after_many_documents_leaves_nothing_behind(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"text": "word " * 1000}) + "\n") * 2000 + "{oops\n")

    with pytest.raises(SweeperError, match="line 2001: not JSON"):
        data.prepare([path], "sweeper1024", tmp_path / "out")

    assert list(tmp_path.iterdir()) == [path]


def test_wrong_arguments_are_refused(source, tmp_path):
    with pytest.raises(SweeperError, match="unknown tokenizer 'bert'"):
        data.prepare([source], "bert", tmp_path / "out")
    with pytest.raises(SweeperError, match="val fraction must be between 0 and 1, got 1"):
        data.prepare([source], "gpt2", tmp_path / "out", val_fraction=1)
    with pytest.raises(SweeperError, match="no input"):
        data.prepare([], "gpt2", tmp_path / "out")


def test_damage_is_found(source, tmp_path):
    out = tmp_path / "out"
    data.prepare([source], "sweeper1024", out, val_paths=[source])
    shard = out / "train_000000.bin"

    raw = bytearray(shard.read_bytes())
    raw[2000] ^= 1
    shard.write_bytes(raw)
    load_manifest(out)
    with pytest.raises(SweeperError, match=r"train_000000\.bin has changed since it was written"):
        verify(out)
    shard.write_bytes(raw[:-2])
    with pytest.raises(SweeperError, match=r"train_000000\.bin must have [0-9,]+ bytes, it has"):
        load_manifest(out)
    shard.unlink()
    with pytest.raises(SweeperError, match="it is missing"):
        load_manifest(out)
    (out / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(SweeperError, match="is not a manifest that this version reads: format"):
        load_manifest(out)
    (out / "manifest.json").unlink()
    with pytest.raises(SweeperError, match=r"is no prepared data folder .* sweeper data prepare"):
        load_manifest(out)


def test_ensure_takes_a_prepared_folder_of_the_right_tokenizer(source, tmp_path):
    out = tmp_path / "out"
    data.prepare([source], "gpt2", out, val_paths=[source])

    assert data.ensure(str(out), "gpt2", tmp_path) == out
    with pytest.raises(SweeperError, match="prepared with the tokenizer gpt2, the study asks for sweeper1024"):
        data.ensure(str(out), "sweeper1024", tmp_path)
    with pytest.raises(SweeperError, match="is no prepared data folder"):
        data.ensure("smal", "gpt2", tmp_path)


@pytest.mark.parametrize("tokenizer", ["sweeper1024", "gpt2"])
def test_small_is_prepared_on_first_use(tokenizer, tmp_path):
    folder = data.ensure("small", tokenizer, tmp_path)

    manifest = verify(folder)
    assert folder == tmp_path / "data" / f"small-{tokenizer}"
    assert (manifest.documents("train"), manifest.documents("val")) == (518, 42)
    assert (manifest.text_bytes("train"), manifest.text_bytes("val")) == (4_465_470, 365_794)
    if tokenizer == "gpt2":  # counted elsewhere, with tiktoken's own gpt2
        assert manifest.tokens("train") - 518 == 961_680
        assert manifest.tokens("val") - 42 == 80_289


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data beside the repository")
def test_small_is_the_shared_corpus(tmp_path):
    folder = data.ensure("small", "sweeper1024", tmp_path)

    for split in ("train", "val"):
        text = (SHARED / "small" / f"{split}.txt").read_text()
        assert documents(folder, split, "sweeper1024") == text.split("\n<|endoftext|>\n")[:-1]


def test_processes_may_race_for_small(tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        folders = pool.starmap(data.ensure, [("small", "sweeper1024", tmp_path)] * 3, chunksize=1)

    assert len(set(folders)) == 1
    assert verify(folders[0]).documents("train") == 518
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["small-sweeper1024"]


def test_a_killed_preparation_leaves_no_folder_of_that_name(source, tmp_path):
    long = tmp_path / "long.txt"
    long.write_text("A sentence that is written many times.\n" * 1_000_000)
    out = tmp_path / "made" / "out"
    child = start_preparing(long, out)
    try:
        deadline = time.monotonic() + 60
        while not list(out.parent.glob(".out.partial/train_*.bin")):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.kill()
        child.communicate(timeout=60)

    assert not out.exists()
    data.prepare([source], "sweeper1024", out, val_paths=[source])
    verify(out)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc")
@pytest.mark.parametrize(
    ("kind", "large"),
    [
        ("txt", 32),
        pytest.param("jsonl.zst", 24, marks=pytest.mark.slow),
        pytest.param("parquet", 24, marks=pytest.mark.slow),
    ],
)
def test_memory_does_not_grow_with_the_input(kind, large, tmp_path):
    peaks = []
    for megabytes in (8, large):
        path = tmp_path / f"{megabytes}.{kind}"
        write_large(path, megabytes)
        child = start_preparing(path, tmp_path / f"{kind}-{megabytes}")
        told, _ = child.communicate(timeout=120)
        assert child.returncode == 0
        peaks.append(int(told))

    assert peaks[1] - peaks[0] < 12_000, f"KiB more for {large - 8} MB more of input"


def start_preparing(path: Path, out: Path) -> subprocess.Popen[str]:
    """A process that prepares and prints its largest resident memory in KiB."""
    code = (
        "import sys; from pathlib import Path; from sweeper import data; "
        "data.prepare([Path(sys.argv[1])], 'sweeper1024', Path(sys.argv[2]), val_paths=[Path(sys.argv[3])]); "
        # Not getrusage, whose maximum a child takes over from its parent.
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    val = path.with_name("val.txt")
    val.write_text("Something else.")
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(out), str(val)], stdout=subprocess.PIPE, text=True
    )


def write_large(path: Path, megabytes: int) -> None:
    """Documents of about 10 KB; as plain text, one document without any separator."""
    document = "".join(f"Line {number} of a document, {number * 7919 % 1000} words long.\n" for number in range(250))
    count = megabytes * 1_000_000 // len(document)
    rows = (f"{number}\n{document}" for number in range(count))
    if path.suffix == ".txt":
        path.write_text("".join(rows))
    elif path.suffix == ".zst":
        lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
        path.write_bytes(zstandard.compress(lines.encode()))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": list(rows)}), path, row_group_size=100)
