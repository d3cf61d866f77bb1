"""Lines of training logs: what each dialect says, and what must not be mistaken for it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.dialects import (
    Averaged,
    CapReached,
    Fact,
    Final,
    Remark,
    Said,
    Size,
    Train,
    Validation,
    ValidationLoss,
    parse,
)
from sweeper.pipes import LONGEST_LINE_BYTES, Lines


def train(step: int, total: int, loss: float, seconds: float | None = None) -> Train:
    return Train(step=step, total=total, loss=loss, seconds=seconds)


def validation(step: int, total: int, val_loss: float, val_bpb: float, seconds: float | None = None) -> Validation:
    return Validation(step=step, total=total, val_loss=val_loss, val_bpb=val_bpb, seconds=seconds)


def final(label: str, kind: str, val_bpb: float, **known: Any) -> Final:
    given: dict[str, Any] = {"exact": False, "val_loss": 2.0, "eval_seconds": 0.0} | known
    return Final(label=label, kind=kind, val_bpb=val_bpb, **given)


def size(what: str, scheme: str, codec: str, count: int, payload: int = 0) -> Size:
    return Size(what=what, scheme=scheme, codec=codec, bytes=count, payload_bytes=payload)


MEANING: list[tuple[str, list[Said]]] = [
    # The baseline.
    (
        "step:0/20000 val_loss:6.9357 val_bpb:4.1077 train_time:0ms step_avg:0.01ms",
        [validation(0, 20000, 6.9357, 4.1077, 0.0)],
    ),
    (
        "step:200/20000 val_loss:2.7754 val_bpb:1.6437 train_time:8712ms step_avg:43.56ms",
        [validation(200, 20000, 2.7754, 1.6437, 8.712)],
    ),
    ("step:3/20000 train_loss:5.5021 train_time:131ms step_avg:43.60ms", [train(3, 20000, 5.5021, 0.131)]),
    ("stopping_early: wallclock_cap train_time:600038ms step:13780/20000", [CapReached()]),
    ("model_params:17059912", [Fact(name="model_params", value=17059912)]),
    (
        "world_size:8 grad_accum_steps:1",
        [Fact(name="world_size", value=8), Fact(name="grad_accum_steps", value=1)],
    ),
    (
        "train_batch_tokens:524288 train_seq_len:1024 iterations:20000 warmup_steps:20 max_wallclock_seconds:600.000",
        [Fact(name="train_batch_tokens", value=524288), Fact(name="max_wallclock_seconds", value=600)],
    ),
    (
        "val_loader:shards pattern=./data/fineweb_val_*.bin tokens:62021632",
        [Fact(name="val_tokens", value=62021632)],
    ),
    ("peak memory allocated: 10246 MiB reserved: 10310 MiB", [Fact(name="peak_memory_mib", value=10246)]),
    ("Code size: 47642 bytes", [Fact(name="code_bytes", value=47642)]),
    ("Serialized model: 67224983 bytes", []),
    ("Total submission size: 67272625 bytes", []),
    (
        "Serialized model int8+zlib: 15815847 bytes (payload:17178912 raw_torch:17224025 payload_ratio:3.91x)",
        [size("model", "int8", "zlib", 15815847, 17178912)],
    ),
    ("Total submission size int8+zlib: 15863489 bytes", [size("total", "int8", "zlib", 15863489)]),
    (
        "final_int8_zlib_roundtrip val_loss:2.0000 val_bpb:1.2244 eval_time:1401ms",
        [final("final_int8_zlib_roundtrip", "quantised", 1.2244, eval_seconds=1.401)],
    ),
    (
        "final_int8_zlib_roundtrip_exact val_loss:2.00000000 val_bpb:1.22436570",
        [final("final_int8_zlib_roundtrip", "quantised", 1.2243657, exact=True)],
    ),
    # Forks.
    ("1000/20000 val_loss: 3.0 val_bpb: 1.2", [validation(1000, 20000, 3.0, 1.2)]),
    (
        "step:125/3200 val_loss:6.570564 train_time:5250ms step_avg:42.00ms",
        [ValidationLoss(step=125, total=3200, val_loss=6.570564, seconds=5.25)],
    ),
    ("1000/20000 train_loss: 3.01 train_time: 1.6m tok/s: 7981133", [train(1000, 20000, 3.01, 96.0)]),
    ("step:1000/10000 loss:3.31 t:91478ms avg:91.5ms", [train(1000, 10000, 3.31, 91.478)]),
    ("  train_batch_tokens: 65536", [Fact(name="train_batch_tokens", value=65536)]),
    (
        "final_int6_roundtrip val_loss:2.0 val_bpb:1.15 eval_time:2m",
        [final("final_int6_roundtrip", "quantised", 1.15, eval_seconds=120.0)],
    ),
    (
        "final_int6_sliding_window_exact val_loss:2.0 val_bpb:1.12",
        [final("final_int6_sliding_window", "quantised_sliding", 1.12, exact=True)],
    ),
    (
        "final_mixed_quant_zlib_sliding_window val_loss:2.0 val_bpb:1.12",
        [final("final_mixed_quant_zlib_sliding_window", "quantised_sliding", 1.12)],
    ),
    (
        "final_mixed_quant_zlib_roundtrip_exact val_loss: 2.0 val_bpb: 1.14",
        [final("final_mixed_quant_zlib_roundtrip", "quantised", 1.14, exact=True)],
    ),
    ("final_sliding_window val_loss:2.0 val_bpb:1.13", [final("final_sliding_window", "sliding", 1.13)]),
    ("final_int8_ttt_lora val_loss:2.0 val_bpb:1.11", [final("final_int8_ttt_lora", "", 1.11)]),
    ("quantized_ttt_phased val_loss:2.0 val_bpb:1.10", [final("quantized_ttt_phased", "", 1.10)]),
    ("Total submission size int6+zstd-22: 15901324 bytes", [size("total", "int6", "zstd-22", 15901324)]),
    (
        "pre-quantization post-ema val_loss:1.9 val_bpb:1.14 eval_time:10ms",
        [Averaged(val_loss=1.9, val_bpb=1.14)],
    ),
    ("DIAGNOSTIC post_ema val_bpb:1.1342", [Averaged(val_loss=None, val_bpb=1.1342)]),
    ("swa:start step:4500", [Remark(text="swa:start step:4500")]),
    (
        "late_qat:enabled step:1378/35000 train_time:510217ms frac:0.85",
        [Remark(text="late_qat:enabled step:1378/35000 train_time:510217ms frac:0.85")],
    ),
    # Several ranks.
    ("[rank0]: step:5/10 train_loss:3.0 train_time:9ms", [train(5, 10, 3.0, 0.009)]),
    ("[default1]:step:5/10 train_loss:3.0 train_time:9ms", [train(5, 10, 3.0, 0.009)]),
    (
        "step:5/10 train_loss:3.0 train_time:9ms step_avg:1.80msstep:5/10 train_loss:3.0 train_time:9ms",
        [train(5, 10, 3.0, 0.009)],
    ),
]


@pytest.mark.parametrize(("line", "said"), MEANING, ids=[line[:60] for line, _ in MEANING])
def test_every_dialect_is_read(line: str, said: list[Said]) -> None:
    assert parse(line) == said


@pytest.mark.parametrize(
    "line",
    [
        '        f"step:{step}/{args.iterations} val_loss:{val_loss:.4f} val_bpb:{val_bpb:.4f} "',
        'log0(f"final_int8_zlib_roundtrip val_loss:{q_val_loss:.4f} val_bpb:{q_val_bpb:.4f}")',
        "    step:1000/20000 val_loss:2.0 val_bpb:1.2",  # in a docstring
        "# step:1000/20000 val_loss:2.0 val_bpb:1.2",
        "final_int8_zlib_roundtrip val_loss:{q_val_loss:.4f} val_bpb:{q_val_bpb:.4f}",
        "    max_wallclock_seconds = float(os.environ.get('MAX_WALLCLOCK_SECONDS', 600.0))",
        "    train_batch_tokens: int = 524_288",
        "warmup_step:1/20",
        "step:100/200",
        "step:100/200 val_loss:2.0",
        "step:100/200 val_loss:2.0 val_",
        "step:100/200 train_loss:",
        "step:100/200 train_loss:3.1step:100/200 train_loss:3.1 train_time:2ms",
        "step:100/0 train_loss:3.1 train_time:2ms",
        "1" * 40 + "/20 train_loss:3.1",
        "Epoch 1/10 loss: 3.0",
        "",
    ],
)
def test_what_only_looks_like_it_says_nothing(line: str) -> None:
    assert parse(line) == []


def test_a_loss_that_is_no_number_is_read_as_such() -> None:
    (line,) = parse("step:7/20 train_loss:nan train_time:12ms step_avg:1ms")
    assert isinstance(line, Train) and math.isnan(line.loss)
    (line,) = parse("step:7/20 val_loss:inf val_bpb:inf")
    assert isinstance(line, Validation) and math.isinf(line.val_bpb)


@given(st.text(max_size=300))
def test_no_text_makes_it_fail(text: str) -> None:
    parse(text)


@given(st.sampled_from([line for line, _ in MEANING]), st.integers(0, 200), st.text(max_size=20))
def test_no_damaged_line_makes_it_fail(line: str, place: int, noise: str) -> None:
    parse(line[:place])
    parse(line[:place] + noise + line[place:])


@given(st.sampled_from([line for line, said in MEANING if said]), st.text(st.characters(categories=["L", "P"])))
def test_text_in_front_of_a_line_is_not_taken_for_the_line(line: str, noise: str) -> None:
    if noise.strip() and not noise.startswith("["):
        assert parse(noise + line) == []


LOG = "\n".join(line for line, _ in MEANING).encode() + b"\n\xff\xfe half of a step:1/2 val_"


@given(st.lists(st.integers(0, len(LOG)), max_size=30))
def test_lines_are_the_same_however_the_bytes_come(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(LOG)]
    lines = Lines()
    read = [line for a, b in itertools.pairwise(edges) for line in lines.feed(LOG[a:b])]
    assert read == [line for line, _ in MEANING]
    assert lines.rest().endswith("half of a step:1/2 val_")


@given(st.lists(st.sampled_from([b"x" * 70_000, b"\n", b"\r\n", b"step:1/2 train_loss:3.0\n"]), max_size=60))
def test_endless_lines_are_cut_and_the_next_is_whole(chunks: list[bytes]) -> None:
    lines, one = Lines(), Lines()
    read = [line for chunk in chunks for line in lines.feed(chunk)]
    assert read == one.feed(b"".join(chunks))
    assert all(len(line) <= LONGEST_LINE_BYTES for line in read)


def test_a_progress_bar_does_not_swallow_the_line_behind_it() -> None:
    lines = Lines()
    assert lines.feed(b"10%|#  |\r20%|## |\rstep:1/2 train_loss:3.0\n") == ["10%|#  |", "20%|## |", MEANINGFUL]


MEANINGFUL = "step:1/2 train_loss:3.0"
