"""A preparation that is killed, however often and wherever, ends in the bytes of an unbroken one."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sweeper import data, unfinished
from sweeper.errors import SweeperError
from sweeper.shards import verify

OPTIONS = {"val_fraction": 0.1, "reserve_tokens": 60_000, "shard_tokens": 150_000}
PREPARES = """
import sys
from pathlib import Path
from sweeper import data

def say(progress):
    print(progress.tokens, flush=True)

data.prepare(
    [Path(path) for path in sys.argv[2:]], "sweeper1024", Path(sys.argv[1]), progress=say, note_seconds=0.0,
    val_fraction=0.1, reserve_tokens=60_000, shard_tokens=150_000,
)
"""


class Interrupted(BaseException):
    """As a Ctrl-C is."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[Path]:
    """Seven megabytes in two kinds of files, some of it in a document of several pieces."""
    folder = tmp_path_factory.mktemp("sources")
    generator = random.Random(1)
    words = [f"{'bcdfgklmnprst'[i % 13]}{'aeiou'[i % 5]}{i}" for i in range(500)]
    texts = [" ".join(generator.choices(words, k=generator.randint(1, 2000))) for _ in range(800)]
    texts[300] = "\n".join(texts[:500])[:2_600_000]
    (folder / "a.txt").write_text("".join(f"{text}\n<|endoftext|>\n" for text in texts[:400]))
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[400:]))
    return [folder / "a.txt", folder / "b.jsonl"]


@pytest.fixture(scope="module")
def unbroken(sources, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("unbroken") / "out"
    data.prepare(sources, "sweeper1024", out, **OPTIONS)
    made = verify(out)
    assert made.tokens("reserve") >= 60_000
    begun = sum(shard.documents for shard in made.shards)
    assert 800 <= begun < 802, "of the document in three pieces, two at least follow each other in one split"
    return content(out)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def start(out: Path, sources: list[Path]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREPARES, str(out), *map(str, sources)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_kills_at_many_moments_lose_and_repeat_nothing(sources, unbroken, tmp_path):
    out, tokens_at_kill = tmp_path / "out", []
    for after_lines in (1, 2, 3, 1, 2):
        child = start(out, sources)
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(after_lines)]
        child.kill()
        child.communicate()
        assert not out.exists(), "it was killed too late to show anything"
        tokens_at_kill.append(int(told[-1]))
    last = start(out, sources)
    last.communicate()

    assert last.returncode == 0
    assert tokens_at_kill == sorted(tokens_at_kill) and tokens_at_kill[0] < tokens_at_kill[-1], "it went on each time"
    assert content(out) == unbroken
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@settings(deadline=None, max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.integers(1, 6), max_size=4), every_batch=st.booleans())
@example(batches=[2] * 18, every_batch=True)  # at every place, also inside a document
def test_interruptions_after_any_batch_change_nothing(batches, every_batch, sources, unbroken, tmp_path):
    shutil.rmtree(tmp_path)
    out = tmp_path / "out"
    for count in batches:
        seen = []

        def interrupt(progress, count=count, seen=seen):
            seen.append(progress)
            if len(seen) == count:
                raise Interrupted

        try:
            note_seconds = 0.0 if every_batch else 1e9
            data.prepare(sources, "sweeper1024", out, progress=interrupt, note_seconds=note_seconds, **OPTIONS)
        except Interrupted:
            assert not out.exists()
    data.prepare(sources, "sweeper1024", out, **OPTIONS)

    assert content(out) == unbroken


def interrupted(sources: list[Path], out: Path) -> Path:
    """What a kill after some batches leaves, with more on the disk than the note tells of."""

    seen = []

    def interrupt(progress: data.Progress) -> None:
        seen.append(progress)
        if len(seen) == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        data.prepare(sources, "sweeper1024", out, progress=interrupt, note_seconds=0.0, **OPTIONS)
    folder = unfinished.beside(out)
    assert (folder / unfinished.NOTE).exists()
    return folder


def test_what_was_written_after_the_note_is_written_again(sources, unbroken, tmp_path):
    folder = interrupted(sources, tmp_path / "out")
    last = max(folder.glob("train_*.bin"))
    with last.open("ab") as file:
        file.write(b"half a batch")
    (folder / "train_000099.bin").write_bytes(b"a shard that was begun later")
    (folder / f"{unfinished.NOTE}.partial").write_bytes(b"{")

    data.prepare(sources, "sweeper1024", tmp_path / "out", **OPTIONS)

    assert content(tmp_path / "out") == unbroken


@pytest.mark.parametrize("noted", [True, False], ids=["before the note goes", "before it is renamed"])
def test_a_kill_among_the_last_acts_is_made_good(noted, sources, unbroken, tmp_path):
    out = tmp_path / "out"
    folder = interrupted(sources, out)
    note = (folder / unfinished.NOTE).read_bytes()
    data.prepare(sources, "sweeper1024", out, **OPTIONS)
    out.rename(folder)
    if noted:
        (folder / unfinished.NOTE).write_bytes(note)

    data.prepare(sources, "sweeper1024", out, **OPTIONS)

    assert content(out) == unbroken
    assert not folder.exists()


def test_a_kill_before_the_first_note_leaves_nothing_to_the_next(sources, tmp_path):
    out = tmp_path / "out"
    folder = unfinished.beside(out)
    folder.mkdir()
    (folder / "reserve_000000.bin").write_bytes(b"of a preparation that had a reserve")

    made = data.prepare(sources, "sweeper1024", out, val_fraction=0.1)

    assert sorted(content(out)) == ["manifest.json", "token_bytes.npy", "train_000000.bin", "val_000000.bin"]
    assert verify(out) == made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer": "gpt2"}, r"tokenizer was 'sweeper1024', is 'gpt2'"),
        ({"reserve_tokens": 0}, r"source was .* is "),
        ({"val_fraction": 0.2}, r"source was .* is "),
    ],
)
def test_another_preparation_does_not_touch_an_interrupted_one(change, said, sources, unbroken, tmp_path):
    out = tmp_path / "out"
    folder = interrupted(sources, out)
    before = content(folder)
    options = {"tokenizer": "sweeper1024", **OPTIONS, **change}

    with pytest.raises(SweeperError, match=f"an interrupted preparation of other data .*{said}.*same files, tokenizer"):
        data.prepare(sources, out=out, **options)

    assert content(folder) == before
    data.prepare(sources, "sweeper1024", out, **OPTIONS)
    assert content(out) == unbroken


def test_a_damaged_interruption_is_refused_as_it_is(sources, tmp_path):
    folder = interrupted(sources, tmp_path / "out")
    first = min(folder.glob("train_*.bin"))
    os.truncate(first, first.stat().st_size - 2)
    with pytest.raises(SweeperError, match=r"train_000000\.bin has [0-9,]+ bytes, [0-9,]+ were written before"):
        data.prepare(sources, "sweeper1024", tmp_path / "out", **OPTIONS)
    (folder / unfinished.NOTE).write_text("{}")
    with pytest.raises(SweeperError, match=r"unfinished\.json cannot be read .*; remove .* and start anew"):
        data.prepare(sources, "sweeper1024", tmp_path / "out", **OPTIONS)
    assert first.exists()


def test_two_processes_do_not_prepare_one_folder(sources, tmp_path):
    folder = unfinished.beside(tmp_path / "out")
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(SweeperError, match="another process is preparing this folder"):
        data.prepare(sources, "sweeper1024", tmp_path / "out", **OPTIONS)
    os.close(handle)
    data.prepare(sources, "sweeper1024", tmp_path / "out", **OPTIONS)
