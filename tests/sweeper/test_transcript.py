"""A log as the events of a run: rungs, ends, scores, and logs that lie."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.dialects import parse
from sweeper.protocol import CommandRun
from sweeper.transcript import STEP_EVENTS, Transcript
from trainer import events
from trainer.events import Event

HEADER = ["model_params:17059912", "world_size:1 grad_accum_steps:8", "train_batch_tokens:524288"]
FINALS = [
    "peak memory allocated: 10246 MiB reserved: 10310 MiB",
    "Code size: 50000 bytes",
    "Serialized model int8+zlib: 15800000 bytes (payload:17178912 raw_torch:17224025 payload_ratio:3.91x)",
    "Total submission size int8+zlib: 15850000 bytes",
    "final_int8_zlib_roundtrip val_loss:2.0672 val_bpb:1.2244 eval_time:1401ms",
    "final_int8_zlib_roundtrip_exact val_loss:2.06718263 val_bpb:1.22436570",
]


def read(
    *lines: str, seconds: float | None = 600.0, rungs: tuple[float, ...] = (0.3, 0.6), batch: int | None = None
) -> list[Event]:
    """All events of a log, its end included where it has one."""
    run = CommandRun(argv=["x"], budget_seconds=seconds, rungs=list(rungs), batch_tokens=batch)
    transcript = Transcript(run, "cuda:1", "NVIDIA H200")
    said = [event for line in lines for item in parse(line) for event in transcript.take(item, 700.0)]
    return said if any(isinstance(event, events.End) for event in said) else said + transcript.finish(800.0)


def val(share: float, bpb: float = 1.5, total: int = 20000) -> str:
    """A validation line of a 600 s run at this share of it."""
    ms = round(600_000 * share)
    return f"step:{round(1000 * share)}/{total} val_loss:{bpb * 1.7:.4f} val_bpb:{bpb:.4f} train_time:{ms}ms"


def train(share: float, loss: Any = 3.0) -> str:
    return f"step:{round(1000 * share)}/20000 train_loss:{loss} train_time:{round(600_000 * share)}ms step_avg:1.00ms"


def kinds(said: list[Event]) -> list[str]:
    return [event.kind for event in said]


def only(said: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in said if isinstance(event, kind)]


def test_a_whole_run_is_told_in_order() -> None:
    said = read(*HEADER, val(0, 4.1), train(0.1), val(0.31), val(0.62, 1.3), val(1.0, 1.2172), *FINALS)

    assert kinds(said) == ["start", "eval", "step", "eval", "eval", "eval", "outcome", "score", "export", "end"]
    start, step = said[0], said[2]
    assert isinstance(start, events.Start) and isinstance(step, events.Step)
    assert step.lr_factor is None  # the log does not say it
    assert (start.device, start.device_name, start.parameters) == ("cuda", "NVIDIA H200", 17059912)
    assert (start.micro_batch_tokens, start.accumulation, start.setup_seconds) == (65536, 8, 700.0)
    assert (step.step, step.tokens, step.seconds, step.progress) == (100, 100 * 524288, 60.0, 0.1)
    assert step.tokens_per_second == pytest.approx(100 * 524288 / 60)
    assert [(e.fraction, e.progress) for e in only(said, events.Eval)] == [(0, 0), (0.3, 0.31), (0.6, 0.62), (1, 1)]
    outcome, score, export, end = said[-4:]
    assert isinstance(outcome, events.Outcome) and outcome.val_bpb == 1.2172
    assert isinstance(score, events.Score)
    assert (score.name, score.val_bpb, score.eval_seconds) == ("quantised", 1.2243657, 0.0), "the exact line wins"
    assert isinstance(export, events.Export)
    assert (export.scheme, export.codec, export.artifact_bytes) == ("int8", "zlib", 15_850_000)
    assert (export.code_bytes, export.raw_bytes, export.gap) == (50_000, 17178912, pytest.approx(1.2243657 - 1.2172))
    assert isinstance(end, events.End)
    assert (end.reason, end.step, end.peak_memory_bytes, end.wall_seconds) == ("complete", 1000, 10246 * 2**20, 800.0)
    for event in said:
        assert events.from_dict(events.to_dict(event)) == event


def test_the_exact_score_wins_whichever_comes_first() -> None:
    said = read(val(1.0), FINALS[5], FINALS[4])
    assert [score.val_bpb for score in only(said, events.Score)] == [1.2243657]


def test_all_kinds_of_scores_have_their_names() -> None:
    said = read(
        val(1.0, 1.2),
        "final_sliding_window val_loss:2.0 val_bpb:1.17",
        "final_int6_roundtrip val_loss:2.0 val_bpb:1.21",
        "final_int6_sliding_window val_loss:2.0 val_bpb:1.18",
        "final_int8_ttt_lora val_loss:2.0 val_bpb:1.16",
    )
    found = {score.name: score.val_bpb for score in only(said, events.Score)}
    assert found == {"sliding": 1.17, "quantised": 1.21, "quantised_sliding": 1.18}
    assert set(found) == set(events.SCORES)
    assert "final_int8_ttt_lora" in only(said, events.Notice)[-1].message


def test_averaged_weights_are_the_outcome() -> None:
    said = read(val(1.0, 1.5), "DIAGNOSTIC post_ema val_bpb:1.2000")
    (outcome,) = only(said, events.Outcome)
    assert outcome.val_bpb == 1.2 and outcome.val_loss == pytest.approx(1.2 * 1.7)


def test_a_validation_counts_for_the_rung_it_follows_and_for_no_earlier_one() -> None:
    said = read(val(0), train(0.35), val(0.39), val(0.5), val(0.61), val(1.0))
    assert [event.fraction for event in only(said, events.Eval)] == [0, 0.3, 0.5, 0.6, 1]
    assert only(said, events.Notice) == []


@pytest.mark.parametrize("late", [train(0.45), val(0.45)])
def test_a_rung_without_a_validation_in_time_is_left_out_with_a_word(late: str) -> None:
    said = read(val(0), late, val(0.61), val(1.0))
    assert [event.fraction for event in only(said, events.Eval) if event.fraction in (0.3, 0.6)] == [0.6]
    (notice,) = only(said, events.Notice)
    assert "rung 0.3" in notice.message and "VAL_LOSS_EVERY" in notice.message


def test_a_run_that_validates_at_its_end_alone_says_which_rungs_it_missed() -> None:
    said = read(val(0), val(1.0))
    assert [event.fraction for event in only(said, events.Eval)] == [0, 1]
    assert "0.3, 0.6" in only(said, events.Notice)[0].message


def test_progress_without_times_is_that_of_steps() -> None:
    lines = [f"{step}/10 val_loss: 3.0 val_bpb: 1.2" for step in range(11)]
    said = read(*lines, seconds=None, batch=1024)
    assert [event.progress for event in only(said, events.Eval)] == [step / 10 for step in range(11)]
    assert only(said, events.Outcome)[0].tokens == 10 * 1024


def test_the_time_of_a_validation_that_does_not_say_it_is_that_of_its_step() -> None:
    said = read("100/20000 train_loss: 3.0 train_time: 3.0m", "200/20000 val_loss: 3.0 val_bpb: 1.2")
    (evaluation,) = only(said, events.Eval)
    assert (evaluation.seconds, evaluation.progress, evaluation.fraction) == (360.0, 0.6, 0.6)


@pytest.mark.parametrize("line", [train(0.2, "nan"), val(0.2).replace("val_bpb:1.5000", "val_bpb:nan")])
def test_a_loss_that_is_no_number_ends_the_run_as_diverged(line: str) -> None:
    said = read(val(0), train(0.1), line)
    end = said[-1]
    assert isinstance(end, events.End)
    assert (end.reason, end.step) == ("diverged", 200) and "not finite" in end.detail


def test_a_quantised_score_that_is_no_number_is_left_out() -> None:
    said = read(val(1.0), "final_int8_zlib_roundtrip val_loss:nan val_bpb:nan")
    assert only(said, events.Score) == [] and isinstance(said[-1], events.End)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [val(0), train(0.5)],
        [val(0), val(0.3), train(0.9)],
        [val(0.5)],
        ["final_int8_zlib_roundtrip val_loss:2.0 val_bpb:1.2"],
        [*HEADER, "Traceback (most recent call last):"],
    ],
)
def test_a_log_that_breaks_off_has_no_end(lines: list[str]) -> None:
    assert not only(read(*lines), events.End) and not only(read(*lines), events.Outcome)


def test_a_script_that_stops_early_by_its_own_word_is_complete() -> None:
    said = read(val(0), val(0.9), "stopping_early: wallclock_cap train_time:540000ms step:900/20000")
    assert isinstance(said[-1], events.End) and said[-1].reason == "complete"


def test_ranks_that_all_speak_are_heard_once() -> None:
    lines = [val(0), *(train(share / 100) for share in range(1, 100)), val(1.0)]
    doubled = [line for line in lines for _ in range(2)]
    lagging = [line for pair in zip(lines[1:], lines, strict=False) for line in pair]
    assert kinds(read(*doubled)) == kinds(read(*lines))
    assert len(only(read(*lagging), events.Step)) <= len(only(read(*lines), events.Step))


def test_a_script_that_starts_over_is_followed() -> None:
    said = read(val(0), train(0.2), val(0.31, 2.0), val(0, 4.0), train(0.2), val(0.32, 1.9), val(1.0, 1.2))
    assert "started over" in only(said, events.Notice)[0].message
    assert only(said, events.Outcome)[0].val_bpb == 1.2
    assert [event.fraction for event in only(said, events.Eval)] == [0, 0.3, 0, 0.32, 1], "a rung is reached once"


def test_what_the_script_calls_its_cap_is_believed_and_told() -> None:
    said = read("train_batch_tokens:1024 max_wallclock_seconds:1200.000", train(0.3), val(1.0))
    assert only(said, events.Step)[0].progress == pytest.approx(0.15)
    assert "1200" in said[0].message if isinstance(said[0], events.Notice) else False


def test_a_script_that_logs_every_step_is_thinned() -> None:
    said = read(*(f"step:{step}/20000 train_loss:3.0 train_time:{step * 30}ms" for step in range(1, 20001)))
    assert STEP_EVENTS <= len(only(said, events.Step)) <= STEP_EVENTS + 11


ANY = st.sampled_from(
    [*HEADER, *FINALS, "swa:start step:5", "DIAGNOSTIC post_ema val_bpb:1.1", "1/3 loss: 3", "stopping_early: x"]
) | st.builds(lambda share, is_val: val(share) if is_val else train(share), st.floats(0, 1.2), st.booleans())


@given(st.lists(ANY, max_size=40))
def test_any_order_of_lines_gives_a_well_formed_run(lines: list[str]) -> None:
    said = read(*lines)
    told = [event for event in said if not isinstance(event, events.Notice)]
    assert [event.kind for event in told].count("start") == (1 if told else 0)
    assert not told or told[0].kind == "start"
    assert kinds(said).count("end") <= 1 and ("end" not in kinds(said) or said[-1].kind == "end")
    rungs = [event.fraction for event in only(said, events.Eval) if event.fraction in (0.3, 0.6)]
    assert len(rungs) == len(set(rungs))
    for event in said:
        events.from_dict(events.to_dict(event))
