"""A promotion against its plan: phases and their times, what is forecast, targets, samples, parameters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlalchemy.orm import Session

from sweeper.phase_plan import constant_parts, phases_of
from sweeper.promotion_records import Standing
from sweeper.results import Results
from sweeper.saturation import Forecast
from sweeper.scaling.records import Unidentified
from sweeper.tables import MessageRow, PromotionRow, RunRow
from tests.dashboard.planned import PHASES, planned
from tests.dashboard.synthetic import Writer, new_engine
from trainer.config import TrainConfig

TOKENS = sum(phase["tokens"] for phase in PHASES)


@pytest.fixture
def engine(tmp_path):
    engine = new_engine(tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def writer(engine):
    return Writer(engine)


def standing_of(writer: Writer, number: int = 0) -> Standing:
    results = Results(writer.engine)
    return results.standing(results.run(writer.name, "promotion", number))


def found(standing: Standing, name: str) -> Any:
    (only,) = [row for row in standing.success.rows if row.name == name]
    return only


def test_phases_end_at_whole_steps_and_tokens_fall_into_them():
    config = {
        "data": {"batch_tokens": 1000},
        "plan": {"phases": [{"name": "a", "tokens": 1500}, {"name": "b", "tokens": 1500}]},
    }
    phases = phases_of(config, 2400, "running")
    assert [(p.begin, p.end, p.trained, p.state) for p in phases] == [
        (0, 2000, 2000, "complete"), (2000, 3000, 400, "running"),
    ]  # fmt: skip
    assert [p.state for p in phases_of(config, 2000, "running")] == ["complete", "running"]
    assert [p.state for p in phases_of(config, 500, "diverged")] == ["diverged", "not reached"]
    assert [p.state for p in phases_of(config, 0, "waiting")] == ["waiting", "waiting"]
    assert [p.share for p in phases_of(config, 500, "running")] == [0.25, 0.0]
    assert phases_of({"data": {"batch_tokens": 1000}}, 0, "running") == ()


def test_parts_with_a_constant_rate_are_those_of_pretraining_without_their_warm_up():
    config = {"data": {"batch_tokens": 1}, "plan": {"phases": PHASES}}
    parts = constant_parts(config, phases_of(config, 0, "waiting"), TOKENS)
    assert [(p.name, p.begin, p.end) for p in parts] == [
        ("pretrain-1", 15_000_000, 1_500_000_000), ("pretrain-2", 1_500_000_000, 2_500_000_000),
    ]  # fmt: skip
    trunk = {"schedule": {"warmup": 0.1, "warmdown": 0.4, "final_lr": 0.0}}
    assert [(p.begin, p.end) for p in constant_parts(trunk, (), 1000)] == [(100, 600)]
    assert constant_parts({"schedule": {"warmup": 0.0, "warmdown": 1.0}}, (), 1000) == []
    assert constant_parts({}, (), 1000) == []


def test_times_follow_the_present_speed_and_what_devices_were_held_for(writer):
    planned(writer, 0, progress=0.3)
    now = standing_of(writer)
    assert now.tokens_per_second == 40_000.0
    left = (TOKENS - now.tokens) / 40_000.0 * 1.1
    assert now.left_seconds == pytest.approx(left, rel=0.01)
    first, second, *_ = now.phases
    assert first.left_seconds == pytest.approx((first.end - now.tokens) / 40_000 * 1.1, rel=0.01)
    assert second.left_seconds > first.left_seconds
    assert first.seconds == pytest.approx(now.tokens / 40_000)
    assert second.seconds is None
    hours = found(now, "hours")
    assert hours.forecast == f"{(now.held_seconds + now.left_seconds) / 3600:.2f} h at the present speed"


def test_the_band_runs_to_the_end_of_the_present_phase_and_holds_what_comes(writer):
    planned(writer, 0, progress=0.3)
    planned(writer, 1, "complete", progress=1.0)
    early, whole = standing_of(writer, 0), standing_of(writer, 1)
    assert isinstance(early.curve.band, Forecast)
    assert early.curve.part == "pretrain-1"
    assert early.curve.band.tokens_m[-1] == pytest.approx(early.phases[0].end)
    inside = (whole.curve.tokens > early.tokens) & (whole.curve.tokens <= early.phases[0].end)
    end = whole.curve.loss[inside][-1]
    assert early.curve.band.low_m[-1] < end < early.curve.band.high_m[-1]


def test_a_phase_without_a_law_says_why(writer):
    planned(writer, 0, progress=0.75)
    planned(writer, 1, progress=0.9)
    short, cosine = standing_of(writer, 0), standing_of(writer, 1)
    assert isinstance(short.curve.band, Unidentified) and "x2 needed" in short.curve.band.not_identified
    assert isinstance(cosine.curve.band, Unidentified)
    assert "pretrain-3 has none" in cosine.curve.band.not_identified
    assert "pretrain-2 has none" in found(short, "saturation").found


def test_a_complete_run_is_judged_by_its_final_validation(writer):
    planned(writer, 0, "complete", progress=1.0)
    done = standing_of(writer)
    assert {phase.state for phase in done.phases} == {"complete"}
    assert (done.left_seconds, done.success.verdict) == (None, "PASS")
    assert "(final)" in found(done, "val PPL").found
    assert found(done, "trained tokens").found.startswith("3,000,041,472 targets"), "without those of instruct"


def test_tokens_of_instruct_are_not_those_of_pretraining(writer):
    planned(writer, 0, progress=0.975)
    now = standing_of(writer)
    assert now.phases[-1].trained > 0
    assert found(now, "trained tokens").number == sum(phase.trained for phase in now.phases[:-1])


def by_documents(writer: Writer, phases: list[dict[str, Any]], targets: int | None) -> None:
    with Session(writer.engine) as session:
        for run in session.query(RunRow).filter(RunRow.kind == "promotion"):
            run.config = copy.deepcopy(run.config) | {"plan": {"phases": phases}}
            end = {"event": "end", "reason": "complete", "targets": targets}
            session.add(MessageRow(run_id=run.id, seq=10_000, at=0.0, kind="end", body=end))
        session.commit()


def test_targets_of_windows_by_documents_are_known_at_the_end_and_only_of_a_whole_run(writer):
    documents = [phase | {"windows": "documents"} for phase in PHASES]
    planned(writer, 0, "complete", progress=1.0)
    by_documents(writer, documents, 2_000_000_000)
    mixed = found(standing_of(writer), "trained tokens")
    assert mixed.verdict == "not known" and "of the whole run" in mixed.reason
    by_documents_alone = [phase | {"kind": "pretrain"} for phase in documents]
    with Session(writer.engine) as session:
        (run,) = session.query(RunRow).filter(RunRow.kind == "promotion")
        run.config = copy.deepcopy(run.config) | {"plan": {"phases": by_documents_alone}}
        session.commit()
    assert found(standing_of(writer), "trained tokens").number == 2_000_000_000
    with Session(writer.engine) as session:
        session.execute(update(PromotionRow).values(state="running"))
        session.commit()
    assert found(standing_of(writer), "trained tokens").verdict == "not yet"


def test_a_resumed_run_holds_devices_in_all_its_attempts(writer):
    run = planned(writer, 0, "complete", progress=1.0)
    before = standing_of(writer).held_seconds
    writer.run("promotion", 0, "failed", writer.params(), 0.1, 2, tokens=TOKENS, attempt=2)
    with Session(writer.engine) as session:
        session.execute(update(RunRow).where(RunRow.id != run).values(wall_seconds=3600.0))
        session.commit()
    assert standing_of(writer).held_seconds == pytest.approx(before + 3600)


def test_what_a_killed_attempt_did_beyond_its_checkpoint_is_not_counted(writer):
    first = planned(writer, 0, progress=0.75)
    again = writer.run(
        "promotion", 0, "running", writer.params(), 0.0, 0, tokens=TOKENS, attempt=2, resumed_step=20_000,
        config=TrainConfig().to_dict() | {"plan": {"phases": PHASES}, "data": {"batch_tokens": 65_536}},
    )  # fmt: skip
    writer.advance(first, state="failed", wall_seconds=60_000.0)
    writer.advance(again, created_at=writer.now)
    now = standing_of(writer)
    assert now.tokens == 20_000 * 65_536 // 78_000_000 * 78_000_000, "the last point before step 20,000"
    assert [phase.state for phase in now.phases] == ["running", "waiting", "waiting", "waiting"]
    assert now.phases[0].seconds == pytest.approx(now.tokens / 40_000)
    assert now.phases[1].seconds is None
    assert now.left_seconds > (TOKENS - now.tokens) / 40_000, "what the kill cost counts as overhead"


def test_samples_come_newest_first_and_ids_stay_numbers(writer):
    run = planned(writer, 0)
    with Session(writer.engine) as session:
        body = {"event": "sample", "step": 9, "tokens": 9, "prompt_ids": [1, 2], "ids": [3], "prompt": "", "text": ""}
        session.add(MessageRow(run_id=run, seq=9_000, at=1.0, kind="sample", body=body))
        session.commit()
    samples = standing_of(writer).samples
    assert [(sample.prompt, sample.text) for sample in samples] == [
        ("1 2", "3"), ("Once <b>upon", " a time, number 2"), ("Once <b>upon", " a time, number 1"),
    ]  # fmt: skip


def test_parameters_are_told_apart(writer):
    planned(writer, 0)
    said = standing_of(writer).parameters
    assert said is not None
    assert dict(said.counts)["active"] == 27_500_548
    assert said.edges == ((0, 1), (1, 2), (2, 3), (0, 3)) and said.topology_hash == "8f3a1c"
    writer.promotion(1, 4)
    writer.run("promotion", 1, "running", writer.params(), 0.4, 40, tokens=80_000_000)
    plain = standing_of(writer, 1)
    assert plain.parameters is not None and plain.parameters.edges == ()
    assert dict(plain.parameters.counts) == {
        "active": 1_234_567 - 1024 * 512, "embedding": 1024 * 512, "total": 1_234_567,
    }  # fmt: skip


def test_a_plan_without_criteria_and_phases_stands_all_the_same(writer):
    writer.promotion(0, 4)
    writer.run("promotion", 0, "running", writer.params(), 0.4, 40, tokens=80_000_000)
    plain = standing_of(writer)
    assert plain.phases == () and plain.success.rows == ()
    assert plain.success.verdict == "not known"
    assert plain.left_seconds is not None and plain.left_seconds > 0
    assert plain.curve.part in ("", "the constant part")


def test_it_is_read_in_a_few_queries(writer):
    planned(writer, 0)
    results = Results(writer.engine)
    run = results.run(writer.name, "promotion", 0)
    statements: list[str] = []
    event.listen(writer.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    results.standing(run)
    assert len(statements) <= 2
