"""What the terminal shows, rendered to text."""

import dataclasses
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from sweeper import display
from sweeper.commands import launching, promoting, reading
from sweeper.protocol import PromotionPlan
from sweeper.records import Best, Counts, RunningRun, StudySummary
from sweeper.scores import BITS_PER_BYTE, NATS_PER_TOKEN
from sweeper.settings import Settings
from sweeper.storage import migrate, open_engine
from sweeper.success import Row, Success
from tests.dashboard.planned import planned
from tests.dashboard.synthetic import Writer


def rendered(item):
    console = Console(file=io.StringIO(), width=120)
    console.print(item)
    return console.file.getvalue()


@pytest.fixture
def summary():
    run = RunningRun(
        name="trial 7",
        kind="trial", number=7, attempt=1, worker="w", progress=0.41, step=9, tokens=900, seconds=3.0,
        train_loss=None, val_bpb=None, tokens_per_second=300.0, params={"optim.matrix_lr": 0.02}, started_at=1.0,
        stop_requested="",
    )  # fmt: skip
    study = StudySummary(
        name="toy", description="", state="running", finished=False, profile="cpu", target=16,
        counts=Counts(complete=4, pruned=2, running=1, failed=1, waiting=9),
        judge="final", unit=BITS_PER_BYTE, foreign=False, constraints={}, infeasible=0,
        best=Best(number=3, val_bpb=1.23456, params={"optim.matrix_lr": 0.012345, "model.num_layers": 4}),
        gpu_seconds=125.0, eta_seconds=3725.0, running=(run,), promotions=(), axes=(), budget={}, rungs=(),
        created_at=0.0, tokens_per_second=300.0,
    )  # fmt: skip
    return dataclasses.asdict(study)


def test_the_live_view_shows_counts_best_and_what_runs(summary):
    text = rendered(display.study_view(summary, [], "http://here/studies/toy"))
    assert "6/16 told: 4 complete, 2 pruned · 1 running · 1 failed · GPU-seconds 125 · ETA 1h02m" in text
    assert "best: trial 3 final val_bpb 1.2346 matrix_lr=0.01235 num_layers=4" in text
    assert "http://here/studies/toy" in text
    (line,) = [line for line in text.splitlines() if "trial 7" in line]
    assert "running" in line and "41%" in line and "–" in line


def test_scores_in_nats_are_called_so_in_every_line(summary):
    summary |= {"unit": dataclasses.asdict(NATS_PER_TOKEN)}
    assert "final val_loss 1.2346 nats per token matrix_lr" in display.best_line(summary)
    running = display.run_line(summary["running"][0] | {"val_bpb": 3.1, "train_loss": 3.2}, summary["unit"])
    assert running.endswith("val_loss 3.1000 nats per token")
    told = {"score": 3.3, "streamed_val_bpb": 3.4, "infeasible": "", "reason": "", "state": "complete", "number": 1}
    line = display.trial_line(told | {"progress": 1.0, "params": {}}, summary)
    assert "final val_loss 3.3000 nats per token" in line
    shown = rendered(display.study_view(summary, [], "url")) + rendered(display.studies_table([summary]))
    assert "val_bpb" not in shown and "nats per token" in shown
    console = Console(file=io.StringIO(), width=80)
    console.print(display.studies_table([summary]))
    assert "1.2346" in console.file.getvalue() and "token" in console.file.getvalue()


def test_a_plan_of_a_study_in_nats_says_so():
    plan = PromotionPlan(
        study="s", trial=3, config={}, params={}, tokens=10, steps=1, tokens_per_second=None, seconds=None,
        trial_tokens=5, trial_val_bpb=3.2, unit=NATS_PER_TOKEN, notes=[],
    )  # fmt: skip
    assert "3: final val_loss 3.2000 nats per token at 5 tokens" in rendered(display.plan_view(plan))
    assert PromotionPlan.model_validate(plan.model_dump(mode="json")).unit == NATS_PER_TOKEN


def test_a_study_without_a_finished_trial_has_no_best(summary):
    assert "no trial has finished" in display.best_line(summary | {"best": None})
    assert "toy" in rendered(display.studies_table([summary | {"best": None}]))


def test_the_best_is_named_with_its_score_and_with_what_was_left_out(summary):
    limited = summary | {"judge": "quantised_sliding", "constraints": {"artifact_bytes": 16_000_000}, "infeasible": 1}
    line = display.best_line(limited)
    assert line.startswith("best: trial 3 quantised sliding val_bpb 1.2346")
    assert line.endswith("(1 complete trial over artifact_bytes ≤ 16,000,000 left out)")
    assert display.best_line(limited | {"best": None, "infeasible": 4}) == (
        "no trial is feasible: all 4 that finished their budget break artifact_bytes ≤ 16,000,000"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0, "0s"), (59.6, "1m00s"), (185, "3m05s"), (7_800, "2h10m"), (357_000, "4d03h")]
)
def test_durations(seconds, text):
    assert display.duration(seconds) == text


def test_counts_of_tokens():
    assert [display.count(n) for n in (740, 12_340, 999_997_440, 3e9)] == ["740", "12.3K", "1B", "3B"]


def test_text_from_outside_is_printed_as_it_is():
    console = Console(file=io.StringIO(), width=20)
    display.say(console, "[red]a list [a, b] and a path that is longer than the terminal is wide[/red]")
    assert console.file.getvalue() == "[red]a list [a, b] and a path that is longer than the terminal is wide[/red]\n"


def launch_order(**given):
    left_out = dict.fromkeys(("workers", "trials", "port", "profile"))
    return launching.Order(**{"study": "toy", "host": "127.0.0.1", "device": "auto", **left_out, **given})


def test_the_command_that_goes_on_has_all_that_was_given():
    assert launch_order().command() == "sweeper launch --study toy"
    assert launch_order().command(32) == "sweeper launch --study toy --trials 32"
    order = launch_order(study="my studies/toy.toml", workers=2, trials=9, device="cpu", profile="gpu")
    options = "--workers 2 --trials 9 --device cpu --profile gpu"
    assert order.command() == f"sweeper launch --study 'my studies/toy.toml' {options}"

    left_out = {"yes": True, "host": "127.0.0.1", "port": None}
    full = promoting.Order(study="toy", trial=0, tokens="2x", device="cpu", **left_out)
    assert promoting._command(full) == "sweeper promote --study toy --trial 0 --tokens 2x --device cpu"
    moved = promoting.Order(study="toy", trial=None, tokens=None, by="prior", device="auto", **left_out)
    assert promoting._command(moved) == "sweeper promote --study toy --by prior"


def test_a_stopped_study_is_resumed_as_it_was_launched(summary):
    settings = Settings(home=Path("unused"), storage="sqlite://")
    order = launch_order(study="studies/toy.toml", workers=2)
    problem = launching._problem(summary | {"state": "stopped"}, order, settings, None)
    assert problem == "toy was stopped; to go on: sweeper launch --study studies/toy.toml --workers 2"


def test_success_is_a_table_with_verdicts_reasons_and_forecasts():
    rows = (
        Row(name="hours", wanted="at most 24 h", found="7.15 h", number=7.15, verdict="not yet",
            reason="the run goes on",
            forecast="23.81 h at the present speed", note="wall time"),
        Row(name="val PPL", wanted="below 36", found="40 (streamed)", number=40.0, verdict="PASS", reason="", note=""),
    )  # fmt: skip
    text = rendered(display.success_view(dataclasses.asdict(Success(verdict="not yet", reason="it runs", rows=rows))))
    assert "not yet: it runs" in text
    assert "forecast: 23.81 h at the present speed" in text and "not yet: the run goes on" in text
    (line,) = [line for line in text.splitlines() if "val PPL" in line]
    assert line.split("│")[1].split() == ["val", "PPL", "below", "36", "40", "(streamed)", "PASS"]


def test_status_shows_the_table_of_a_promotion(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path))
    monkeypatch.delenv("SWEEPER_STORAGE", raising=False)
    settings = Settings.from_environment()
    engine = open_engine(settings.storage)
    migrate(engine)
    planned(Writer(engine), 0)
    engine.dispose()
    console = Console(file=io.StringIO(), width=120)
    reading.status(settings, "lr-wd-batch", console)
    text = console.file.getvalue()
    assert "promotion 0 of trial 4: running" in text
    assert "tokens per active parameter" in text and "not yet" in text


def test_a_plan_of_its_own_values_and_unmeasured_speed_is_shown():
    phases = [{"name": "a", "tokens": 10**9, "lr": 1.0}, {"name": "b", "tokens": 10**9, "lr": 0.5, "shape": "cosine"}]
    plan = PromotionPlan(
        study="s", trial=None, name="helix", config={"plan": {"phases": phases}}, params={"optim.matrix_lr": 0.02},
        tokens=2 * 10**9, steps=30_518, tokens_per_second=None, seconds=None, trial_tokens=0, trial_val_bpb=None,
        notes=["a note"],
    )  # fmt: skip
    text = rendered(display.plan_view(plan))
    assert "promote helix, by its own values" in text and "trial" not in text
    assert "2B (2,000,000,000)" in text and re.search(r"│ time +– +│", text)
    assert "1B tokens, rate 1 constant" in text and "1B tokens, rate 0.5 to 0 cosine" in text


def test_a_command_line_holds_the_options_that_have_a_value():
    line = display.command_line(
        "sweeper", "plan", "--study", "a b", options={"--hours": 0.5, "--gpu": None, "--trial": 0}
    )
    assert line == "sweeper plan --study 'a b' --hours 0.5 --trial 0"
