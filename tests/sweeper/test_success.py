"""The table of success: each criterion by its definition, verdicts only when nothing can change them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from sweeper.scaling.records import Estimate, Unidentified
from sweeper.success import Row, SuccessCriteria, judge
from sweeper.success_facts import Active, CurveReading, Facts, active_parameters

CRITERIA = SuccessCriteria(active_parameters=27_500_000, tokens=3_000_000_000, hours=24.0, reference_val_ppl=30.0)
ACTIVE = Active(count=27_500_548, definition="nodes")
CURVE = CurveReading(part="pretrain-1", newest=True, saturation=Estimate(0.93, 0.91, 0.95), tokens=3_000_000_000)


def facts(state: str = "complete", **changes: Any) -> Facts:
    values: dict[str, Any] = {
        "active": ACTIVE, "planned_positions": 3_000_000_000, "positions": 3_000_000_000, "targets": 3_000_000_000,
        "held_seconds": 20 * 3600.0, "left_seconds": None, "val_loss": math.log(32.0), "val_is_final": True,
        "curve": CURVE,
    }  # fmt: skip
    return Facts(state=state, **(values | changes))


def row(name: str, found: Facts, criteria: SuccessCriteria = CRITERIA) -> Row:
    (only,) = [row for row in judge(criteria, found).rows if row.name == name]
    return only


def test_a_run_that_keeps_all_of_it_passes():
    table = judge(CRITERIA, facts())
    assert [row.name for row in table.rows] == [
        "active parameters", "tokens per active parameter", "trained tokens", "hours", "val PPL", "saturation",
        "skipped batches",
    ]  # fmt: skip
    assert {row.verdict for row in table.rows} == {"PASS"}
    assert table.verdict == "PASS"
    assert all(row.wanted and row.found and row.note for row in table.rows)


@pytest.mark.parametrize(
    ("name", "change", "verdict"),
    [
        ("active parameters", {"active": Active(count=27_770_000, definition="")}, "PASS"),
        ("active parameters", {"active": Active(count=34_847_750, definition="with merges")}, "FAIL"),
        ("active parameters", {"active": Active(count=None, definition="the run has not started")}, "not known"),
        ("tokens per active parameter", {"targets": 2_700_000_000}, "PASS"),
        ("tokens per active parameter", {"targets": 2_600_000_000}, "FAIL"),
        ("tokens per active parameter", {"targets": 3_400_000_000}, "FAIL"),
        ("tokens per active parameter", {"active": Active(count=None, definition="unknown")}, "not known"),
        ("trained tokens", {"targets": 2_700_000_000}, "PASS"),
        ("trained tokens", {"targets": 2_699_000_000}, "FAIL"),
        ("trained tokens", {"targets": 1_500_000_000, "positions": 3_000_000_000}, "FAIL"),
        ("trained tokens", {"targets": None, "targets_unknown": "by documents"}, "not known"),
        ("hours", {"held_seconds": 24.01 * 3600}, "FAIL"),
        ("val PPL", {"val_loss": math.log(35.9)}, "PASS"),
        ("val PPL", {"val_loss": math.log(36.1)}, "FAIL"),
        ("saturation", {"curve": None, "targets": 2_500_000_000}, "FAIL"),
        ("saturation", {"curve": None, "targets": None}, "not known"),
        ("skipped batches", {"skips_are_known": False}, "not known"),
    ],
)
def test_each_criterion_is_judged_at_its_limit(name, change, verdict):
    found = row(name, facts(**change))
    assert found.verdict == verdict
    assert bool(found.reason) == (verdict != "PASS")
    assert judge(CRITERIA, facts(**change)).verdict == verdict


def test_positions_do_not_pass_for_targets():
    found = row("trained tokens", facts(targets=1_500_000_000))
    assert found.found == "1,500,000,000 targets of 3,000,000,000 positions"
    assert found.number == 1_500_000_000
    assert row("tokens per active parameter", facts(targets=1_500_000_000)).found == "54.5"


def test_s2_counts_where_it_is_identified_on_the_newest_part_and_s1_elsewhere():
    by_curve = row("saturation", facts(targets=100, positions=100))
    assert (by_curve.verdict, by_curve.number) == ("PASS", 0.93)
    assert by_curve.note.startswith("S2 counts")
    assert "93.0% (91.0% to 95.0%) in pretrain-1" in by_curve.found and "tokens (S1) 0.0%" in by_curve.found
    unidentified = CurveReading(part="p", newest=True, saturation=Unidentified(used=3, not_identified="too few points"))
    older = CurveReading(part="p", newest=False, saturation=Estimate(0.2, 0.1, 0.3), newest_refusal="q has none: short")
    for curve, words in ((unidentified, "not known in p: too few points"), (older, "does not count, and q has none")):
        by_tokens = row("saturation", facts(curve=curve))
        assert by_tokens.verdict == "PASS"
        assert by_tokens.number == pytest.approx(3e9 / 27_500_548 / 109)
        assert by_tokens.note.startswith("S1 counts")
        assert words in by_tokens.found


def test_an_interval_that_reaches_below_the_wanted_share_is_told():
    unsure = CurveReading(part="p", newest=True, saturation=Estimate(0.91, 0.85, 0.95))
    assert row("saturation", facts(curve=unsure)).reason == "the interval reaches below 90%"


def test_while_it_runs_only_what_cannot_change_is_decided_and_forecasts_are_called_so():
    running = facts("running", positions=10**9, targets=10**9, left_seconds=36_000.0, val_is_final=False)
    table = judge(CRITERIA, running)
    assert table.verdict == "not yet"
    verdicts = {row.name: row.verdict for row in table.rows}
    assert verdicts.pop("active parameters") == "PASS"
    assert set(verdicts.values()) == {"not yet"}
    assert row("hours", running).forecast == "30.00 h at the present speed"
    assert row("tokens per active parameter", running).forecast == "109.1 by the plan"
    assert row("val PPL", running).found == "32 (streamed)"
    end = facts("running", val_is_final=False, val_loss_forecast=Estimate(math.log(28), math.log(27), math.log(29)))
    assert row("val PPL", end).forecast == "28 (27 to 29) at the end"
    assert not any(row.forecast for row in judge(CRITERIA, facts()).rows)


def test_hours_that_are_over_fail_before_the_end():
    over = judge(CRITERIA, facts("running", held_seconds=25 * 3600.0, left_seconds=1.0))
    assert over.verdict == "FAIL"
    assert over.reason == "hours"


def test_a_waiting_run_is_not_yet_anything():
    waiting = facts(
        "waiting", active=Active(count=None, definition="the run has not started"), val_loss=None, curve=None
    )
    table = judge(CRITERIA, waiting)
    assert table.verdict == "not yet"
    assert row("val PPL", waiting).reason == "no validation yet"


def test_divergence_fails_and_a_stopped_run_never_passes():
    diverged = judge(CRITERIA, facts("diverged", reason="loss is nan", val_is_final=False))
    assert diverged.verdict == "FAIL"
    assert row("skipped batches", facts("diverged", reason="loss is nan")).reason == "the run diverged: loss is nan"
    assert judge(SuccessCriteria(), facts("stopped")).verdict == "not known"
    assert "was stopped before its end" in judge(SuccessCriteria(), facts("stopped")).reason
    assert row("hours", facts("failed")).verdict == "not known"


def test_rows_are_there_for_what_is_asked():
    names = [row.name for row in judge(SuccessCriteria(tokens_per_active=None, saturation=None), facts()).rows]
    assert names == ["skipped batches"]


def test_active_parameters_of_each_family():
    helix = active_parameters({"active": 27_500_548, "active_definition": "nodes"}, {}, 86_310_918)
    assert helix == Active(count=27_500_548, definition="nodes")
    gpt = {"model": {"vocab_size": 1024, "model_dim": 512, "tie_embeddings": True}}
    assert active_parameters({}, gpt, 10_000_000).count == 10_000_000 - 1024 * 512
    gpt["model"]["tie_embeddings"] = False
    assert active_parameters({}, gpt, 10_000_000).count == 10_000_000 - 2 * 1024 * 512
    assert "untied" in active_parameters({}, gpt, 10_000_000).definition
    assert active_parameters({}, gpt, None).count is None
    assert active_parameters({}, {"command": {}}, 5).count is None


@pytest.mark.parametrize("wrong", [{"hours": 0}, {"saturation": 1.5}, {"tokens": -1}, {"ppl": 3}])
def test_impossible_criteria_are_refused(wrong):
    with pytest.raises(ValidationError):
        SuccessCriteria(**wrong)
