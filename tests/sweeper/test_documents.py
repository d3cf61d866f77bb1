"""Files to pieces: every format, every fault, and cuts that change no token."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sweeper import documents, tokenizers
from sweeper.documents import find_files, read_pieces, split_pieces
from sweeper.errors import SweeperError

TEXTS = ["First.\n\nOf two paragraphs.", "Second, Zürich.\r\n", "Third <|endoftext|> within."]


def write_text(path: Path, texts: list[str]) -> Path:
    path.write_bytes("".join(f"{text}\n<|endoftext|>\n" for text in texts).encode())
    return path


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n\n" for i, text in enumerate(texts)))
    return path


def write_parquet(path: Path, texts: list[str | None]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "id": range(len(texts))}), path)
    return path


def read(path: Path, column: str = "text") -> list[str]:
    """The documents of a file, their pieces joined."""
    found: list[str] = []
    for piece in read_pieces(path, column):
        if piece.starts:
            found.append("")
        found[-1] += piece.text
    return found


@pytest.mark.parametrize(
    ("name", "write", "pack"),
    [
        ("a.txt", write_text, None),
        ("a.txt.gz", write_text, gzip.compress),
        ("a.txt.xz", write_text, lzma.compress),
        ("a.txt.zst", write_text, zstandard.compress),
        ("a.jsonl", write_jsonl, None),
        ("a.jsonl.zst", write_jsonl, zstandard.compress),
        ("a.parquet", write_parquet, None),
    ],
)
def test_every_format_gives_the_documents_as_they_are(name, write, pack, tmp_path):
    path = write(tmp_path / name, TEXTS)
    if pack is not None:
        path.write_bytes(pack(path.read_bytes()))

    assert read(path) == TEXTS


def test_text_without_separators_is_one_document(tmp_path):
    path = tmp_path / "a.md"
    path.write_bytes(b"one\n\ntwo\n")

    assert read(path) == ["one\n\ntwo\n"]


def test_separators_need_a_line_of_their_own_and_empty_documents_are_left_out(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"<|endoftext|>\none <|endoftext|>\n<|endoftext|>\r\n\n<|endoftext|>\ntwo\n<|endoftext|>")

    assert read(path) == ["one <|endoftext|>", "two"]


def test_several_zstd_frames_are_one_file(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    rows = [json.dumps({"text": text}).encode() + b"\n" for text in TEXTS]
    path.write_bytes(b"".join(zstandard.compress(row) for row in rows))

    assert read(path) == TEXTS


def test_empty_rows_are_left_out(tmp_path):
    assert read(write_parquet(tmp_path / "a.parquet", ["one", None, "", "two"])) == ["one", "two"]


def test_long_documents_come_in_pieces_with_a_position(tmp_path):
    text = "A line of some words.\n" * 100_000
    path = write_text(tmp_path / "a.txt", [text, "short"])

    pieces = list(read_pieces(path, "text"))

    assert [piece.starts for piece in pieces] == [True, False, False, True]
    assert max(len(piece.text) for piece in pieces) <= documents.PIECE_CHARACTERS
    assert read(path) == [text, "short"]
    positions = [piece.position for piece in pieces]
    assert positions == sorted(positions)
    assert positions[-1] <= path.stat().st_size


@pytest.mark.parametrize("filler", ["word ", "\n", " ", "x", "ü", "line\r\n", "para\n\n"])
def test_a_line_without_end_is_read_in_pieces(filler, tmp_path):
    text = filler * (1_500_000 // len(filler))
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())

    pieces = list(read_pieces(path, "text"))

    assert "".join(piece.text for piece in pieces) == text
    assert max(len(piece.text) for piece in pieces) <= documents.PIECE_CHARACTERS


@given(
    st.lists(st.sampled_from(["word", "é", "12", "'s", "!", " ", "  ", "\n", "\n\n", "\r\n", "\t"]), max_size=60)
    .map("".join)
    .map(lambda text: "w " + text + " w"),
)
def test_cuts_change_no_token(text):
    """At every length: where there is a harmless place, the pieces' tokens are those of the whole."""
    encoding = tokenizers.encoding("gpt2")
    for limit in range(2, len(text)):
        cut = documents._cut(text, 0, limit)
        if cut < limit:
            assert encoding.encode_ordinary(text[:cut]) + encoding.encode_ordinary(text[cut:]) == (
                encoding.encode_ordinary(text)
            )


@given(st.text(alphabet=" \nab", max_size=30))
def test_pieces_are_the_text(text):
    pieces, rest = split_pieces(text * 80_000)

    assert "".join([*pieces, rest]) == text * 80_000
    assert all(0 < len(piece) <= documents.PIECE_CHARACTERS for piece in [*pieces, rest] if text)


PACKED = zstandard.compress(json.dumps({"text": "word " * 999}).encode())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{oops\n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", b'{"text": "fine"}\n[1]\n', r"a\.jsonl, line 2: expected an object .*found '\[1\]'"),
        ("a.jsonl", b'{"body": "x"}\n', "'text', found the keys body; name another with --column"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: 'text' must be text, got '3' \(int\)"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: 'text' is not valid Unicode"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": "\xff"}\n', r"line 2: not UTF-8 \(byte 0xff"),
        ("a.txt", b"fine\nfine\nZ\xfcrich\n", r"a\.txt, line 3: not UTF-8 \(byte 0xfc"),
        ("a.txt", b"fine\nZ\xc3", r"a\.txt, line 2: not UTF-8"),
        ("a.jsonl.zst", PACKED[:-3], "cannot be decompressed: it ends in the middle"),
        ("a.txt.zst", b"plain text", "cannot be decompressed"),
        ("a.txt.gz", gzip.compress(b"text " * 999, mtime=0)[:-9], "cannot be decompressed"),
        ("a.txt.xz", b"plain text", "cannot be decompressed"),
        ("a.parquet", b"plain text", r"a\.parquet cannot be read as Parquet"),
    ],
)
def test_faults_are_named_with_their_place(name, content, said, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(SweeperError, match=said):
        list(read_pieces(path, "text"))


def test_a_parquet_file_without_the_column_names_those_it_has(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", ["one"])

    with pytest.raises(SweeperError, match=r"no column 'body' but text, id; name one with --column"):
        read(path, "body")
    with pytest.raises(SweeperError, match="row 1: 'id' must be text"):
        read(path, "id")


def test_folders_are_searched_in_a_fixed_order(tmp_path):
    (tmp_path / "b").mkdir()
    names = ["c.txt", "a.jsonl.zst", "b/x.parquet", "b/notes.doc", "b/y.parquet.zst"]
    for name in names:
        (tmp_path / name).touch()

    assert find_files([tmp_path]) == [tmp_path / "a.jsonl.zst", tmp_path / "b/x.parquet", tmp_path / "c.txt"]


def test_paths_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "a.doc").touch()
    with pytest.raises(SweeperError, match=r"there is no file or folder .*nowhere"):
        find_files([tmp_path / "nowhere"])
    with pytest.raises(SweeperError, match=r"cannot tell what .*a\.doc holds; readable are \*\.txt"):
        find_files([tmp_path / "a.doc"])
    with pytest.raises(SweeperError, match="holds no file that can be read"):
        find_files([tmp_path])
