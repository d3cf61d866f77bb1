"""Conversations to ids: the markers are ids of their own, and only where they mark."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from sweeper import chatml, data, tokenizers
from sweeper.chatml import ChatTokenizer
from sweeper.errors import SweeperError
from sweeper.shards import load_manifest, read_shard, verify
from tests.sweeper.golf_shards import train_model

GPT2 = ChatTokenizer(tokenizers.load("gpt2"))
START, END = 50_257, 50_258


def reference() -> tiktoken.Encoding:
    """tiktoken's own way to the same ids: the markers as its special tokens."""
    plain = tokenizers.encoding("gpt2")
    special = {"<|endoftext|>": 50_256, "<|im_start|>": START, "<|im_end|>": END}
    return tiktoken.Encoding(
        "chat", pat_str=plain._pat_str, mergeable_ranks=plain._mergeable_ranks, special_tokens=special
    )


REFERENCE = reference()


def ids(row: object) -> list[int]:
    return GPT2.encode([chatml.render(row, "here")], [True])[0].tolist()


def chat(*messages: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def test_a_conversation_is_its_chatml_text_with_two_added_ids():
    row = chat(("system", "Be brief."), ("user", "What is 2 + 2?"), ("assistant", "4, naïve one.\n"))
    text = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n4, naïve one.\n<|im_end|>\n"
    )

    assert ids(row) == REFERENCE.encode(text, allowed_special="all")
    assert ids(row).count(START) == ids(row).count(END) == 3


def test_prompt_and_response_are_a_user_and_an_assistant():
    assert ids({"prompt": "Hello?", "response": "Yes.", "source": "x"}) == ids(
        chat(("user", "Hello?"), ("assistant", "Yes."))
    )


@given(st.lists(st.sampled_from(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "a", " ", "\n", "ü", "assistant"])))
def test_content_never_holds_the_ids_of_markers(parts):
    content = "".join(parts)
    found = ids(chat(("user", content)))

    assert (found[0], found[-2]) == (START, END)
    inner = found[1:-2]
    assert not {START, END, 50_256} & set(inner)
    assert tokenizers.encoding("gpt2").decode(inner) == f"user\n{content}"


def test_a_prepared_folder_of_conversations(tmp_path):
    path = tmp_path / "chats.jsonl"
    rows = [chat(("user", f"Question {i}?"), ("assistant", f"Answer {i}.")) for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    made = data.prepare([path], "gpt2", tmp_path / "out", val_fraction=0.2, form="chatml")

    assert verify(tmp_path / "out") == made
    assert made.added_tokens == {"<|im_start|>": START, "<|im_end|>": END}
    assert (made.tokenizer, made.vocab_size, made.separator) == ("gpt2", 50_259, 50_256)
    assert made.tokenizer_sha256 == tokenizers.fingerprint("gpt2")
    table = np.load(tmp_path / "out" / "token_bytes.npy")
    assert table[[50_256, START, END]].tolist() == [0, 0, 0]
    tokens = {split: stream(tmp_path / "out", split) for split in ("train", "val")}
    documents = [run for found in tokens.values() for run in np.split(found, np.flatnonzero(found == 50_256))[1:]]
    assert sorted(run[1:].tolist() for run in documents) == sorted(ids(row) for row in rows)
    text = sum(len(f"user\nQuestion {i}?\nassistant\nAnswer {i}.\n") for i in range(60))
    assert made.text_bytes("train") + made.text_bytes("val") == text
    assert data.ensure(str(tmp_path / "out"), "gpt2", tmp_path) == tmp_path / "out"
    assert data.prepare([path], "gpt2", tmp_path / "out", val_fraction=0.2, form="chatml") == made
    with pytest.raises(SweeperError, match="already holds other data"):
        data.prepare([path], "gpt2", tmp_path / "out", val_fraction=0.2)


def stream(folder: Path, split: str) -> np.ndarray:
    shards = [shard.file for shard in load_manifest(folder).shards if shard.split == split]
    return np.concatenate([read_shard(folder / file) for file in shards])


def test_a_long_conversation_comes_in_pieces_and_keeps_its_ids(tmp_path):
    messages = [("user" if i % 2 else "assistant", f"Message {i} says a thing or two.") for i in range(40_000)]
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps(chat(*messages)) + "\n")
    val = tmp_path / "val.jsonl"
    val.write_text(json.dumps(chat(("user", "Hi."))) + "\n")

    data.prepare([path], "gpt2", tmp_path / "out", val_paths=[val], form="chatml")

    assert stream(tmp_path / "out", "train").tolist() == [50_256, *ids(chat(*messages))]


def test_a_sentencepiece_model_takes_the_markers_too(tmp_path):
    base = tokenizers.load(str(train_model(tmp_path / "model")))
    both = ChatTokenizer(base)
    size = base.token_bytes.shape[-1]

    found = both.encode([chatml.render(chat(("user", "the house on the hill")), "here")], [True])[0]

    assert (found[0], found[-1] != size, (found == size + 1).sum()) == (size, True, 1)
    assert both.token_bytes[:, size:].tolist() == [[0, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, r"line 2: expected \{\"messages\": .*found the keys text"),
        ([1], r"found '\[1\]'"),
        ({"messages": []}, "with at least one message"),
        ({"messages": ["hi"]}, "message 1: expected an object with role and content, found 'hi'"),
        (chat(("user", "fine"), ("user", None)), r"message 2: content must be text, got 'None' \(NoneType\)"),
        (chat(("user\nx", "fine")), r"role must be one word, such as user or assistant, got 'user\\nx'"),
        (chat(("", "fine")), "role must be one word"),
        (chat(("user", "\ud800")), "content is not valid Unicode"),
        ({"prompt": "a", "response": 3}, r"content must be text, got '3' \(int\)"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_line(row, said, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(chat(("user", "fine"))) + "\n" + json.dumps(row) + "\n")

    with pytest.raises(SweeperError, match=said):
        data.prepare([path], "gpt2", tmp_path / "out", form="chatml")
    assert list(tmp_path.iterdir()) == [path]


def test_conversations_are_json_lines(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(SweeperError, match=r"--format chatml reads JSON lines, a conversation each; .*a\.txt is text"):
        data.prepare([tmp_path / "a.txt"], "gpt2", tmp_path / "out", form="chatml")
