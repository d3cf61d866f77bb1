"""Which score ranks, and what breaks a limit: stored, told to Optuna, and kept from every best."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path
from typing import Any

import httpx
import pytest
from optuna.trial import TrialState

from sweeper import control, promote, reaper
from sweeper.errors import SweeperError
from sweeper.protocol import PromoteRequest
from sweeper.results import Results
from sweeper.service import Conflict, Service
from sweeper.tables import ExportRow, ScoreRow
from tests.sweeper import talk
from tests.sweeper.conftest import Clock, Opener
from tests.sweeper.installation import Installation

BASE = {"data": {"batch_tokens": 1024}, "eval": {"stride": 64}, "export": {"scheme": "int8"}}
LIMITED: dict[str, Any] = talk.SPEC | {
    "judge": "quantised",
    "constraints": {"artifact_bytes": 1000, "peak_memory_bytes": 5000},
    "base": BASE,
    "pruner": {"type": "none"},
    "trials": 8,
}


def scored(final: float, quantised: float, size: int, memory: int = 0) -> list[dict[str, Any]]:
    """All that a run says which ends with these two scores and this artifact."""
    return [
        talk.start(),
        talk.evaluation(1.0, final + 0.5),
        talk.outcome(final),
        talk.score("sliding", final - 0.03),
        talk.export(size, quantised),
        talk.score("quantised", quantised),
        talk.end(memory=memory),
    ]


@pytest.fixture
def limited(service: Service) -> Service:
    """Trials by final, quantised, size: the best final is not the best quantised, and that one is too large."""
    control.create_study(service, LIMITED)
    for said in (scored(2.0, 2.9, 900), scored(2.2, 2.6, 1000), scored(2.1, 2.4, 1001), scored(2.3, 2.5, 9, 5001)):
        talk.say(service, talk.take(service), *said)
    return service


def test_the_judged_score_is_told_and_what_breaks_a_limit_is_no_best(limited: Service) -> None:
    trials = talk.trials(limited)
    assert [trial.value for trial in trials] == [2.9, 2.6, 2.4, 2.5]
    assert trials[0].constraints == {"artifact_bytes": pytest.approx(-0.1)}
    assert trials[3].constraints == {
        "artifact_bytes": pytest.approx(-0.991),
        "peak_memory_bytes": pytest.approx(1 / 5000),
    }
    rows = Results(limited.engine).trials("tiny")
    assert [row.score for row in rows] == [2.9, 2.6, 2.4, 2.5]
    assert [row.final_val_bpb for row in rows] == [2.0, 2.2, 2.1, 2.3]
    assert [row.artifact_bytes for row in rows] == [900, 1000, 1001, 9]
    assert [row.infeasible for row in rows] == [
        "",
        "",
        "artifact_bytes 1,001 over 1,000",
        "peak_memory_bytes 5,001 over 5,000",
    ]
    found = Results(limited.engine).study("tiny")
    assert found.best is not None
    assert (found.best.number, found.best.val_bpb, found.judge, found.infeasible) == (1, 2.6, "quantised", 2)
    assert found.constraints == {"artifact_bytes": 1000, "peak_memory_bytes": 5000}


def test_optunas_own_best_is_ours(limited: Service) -> None:
    spec = control.parse_spec(LIMITED)
    assert limited.search(spec)._study.best_trial.number == 1


def test_a_run_is_told_in_full(limited: Service) -> None:
    detail = Results(limited.engine).run("tiny", "trial", 1)
    assert [(score.name, score.val_bpb, score.judges) for score in detail.scores] == [
        ("streamed", 2.7, False),
        ("final", 2.2, False),
        ("sliding", pytest.approx(2.17), False),
        ("quantised", 2.6, True),
    ]
    assert detail.scores[-1].stderr == 0.002
    assert detail.artifact is not None
    assert (detail.artifact.artifact_bytes, detail.artifact.raw_bytes, detail.artifact.gap) == (1000, 2000, 0.01)


def test_only_feasible_trials_are_promoted_unless_named(limited: Service) -> None:
    plan = promote.promote(limited, "tiny", PromoteRequest(plan_only=True))
    assert (plan.trial, plan.trial_val_bpb, plan.judge) == (1, 2.6, "quantised")
    named = promote.promote(limited, "tiny", PromoteRequest(trial=2, plan_only=True))
    assert named.notes[0].startswith("Trial 2 breaks a limit of the study")
    assert "artifact_bytes 1,001 over 1,000" in named.notes[0]

    promote.promote(limited, "tiny", PromoteRequest(tokens="1x"))
    talk.say(limited, talk.take(limited), *scored(1.9, 2.3, 1200))
    (record,) = Results(limited.engine).promotions("tiny")
    assert (record.val_bpb, record.infeasible) == (2.3, "artifact_bytes 1,200 over 1,000")


def test_a_study_of_which_no_trial_is_feasible_says_so(service: Service) -> None:
    control.create_study(service, LIMITED)
    for size in (1001, 2000):
        talk.say(service, talk.take(service), *scored(2.0, 2.1, size))
    found = Results(service.engine).study("tiny")
    assert (found.best, found.infeasible) == (None, 2)
    with pytest.raises(Conflict, match="all 2 complete trials of study tiny break a limit"):
        promote.promote(service, "tiny", PromoteRequest())


def test_deliveries_that_are_repeated_store_once(service: Service) -> None:
    control.create_study(service, LIMITED)
    grant = talk.take(service)
    said = scored(2.0, 2.1, 10)
    talk.say(service, grant, *said[:-1])
    talk.say(service, grant, *said)
    talk.say(service, grant, *said)
    assert (talk.count(service, ScoreRow), talk.count(service, ExportRow)) == (2, 1)
    assert talk.states(service) == ["COMPLETE"]


def test_the_objective_waits_for_the_end(service: Service, opener: Opener, clock: Clock) -> None:
    control.create_study(service, LIMITED)
    grant = talk.take(service)
    said = scored(2.0, 2.1, 10)
    talk.say(service, grant, *said[:-1])
    assert talk.states(service) == ["RUNNING"]
    # The worker was killed between its scores and its end: they are no result, and the trial is repeated.
    clock.advance(100)
    reaper.sweep(opener())
    assert talk.states(service) == ["FAIL", "WAITING"]
    assert [row.score for row in Results(service.engine).trials("tiny")] == [None]


@pytest.mark.parametrize(
    ("left_out", "words"),
    [("score", "never said its quantised score"), ("export", "exported nothing, but the study limits artifact_bytes")],
)
def test_a_run_without_what_judges_it_fails_for_good(service: Service, left_out: str, words: str) -> None:
    control.create_study(service, LIMITED)
    said = [event for event in scored(2.0, 2.1, 10) if event["event"] != left_out]
    talk.say(service, talk.take(service), *said)
    (row,) = Results(service.engine).trials("tiny")
    assert row.state == "failed"
    assert row.reason.startswith("score: ") and words in row.reason
    assert talk.states(service) == ["FAIL"], "a repeat would end the same way"


@pytest.mark.parametrize(
    ("judge", "expected"), [("final", 2.0), ("streamed", 2.5), ("sliding", 1.97), ("quantised", 2.1)]
)
@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_every_judge_has_its_score(service: Service, judge: str, expected: float) -> None:
    control.create_study(service, LIMITED | {"judge": judge, "constraints": {}})
    talk.say(service, talk.take(service), *scored(2.0, 2.1, 10**9))
    (row,) = Results(service.engine).trials("tiny")
    assert (row.score, row.infeasible) == (pytest.approx(expected), "")


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_rungs_go_by_the_streamed_score_and_by_feasible_peers(service: Service) -> None:
    control.create_study(service, LIMITED | {"pruner": {"type": "halving", "factor": 2}})
    for size, bpb in ((5000, 1.0), (900, 3.0)):
        grant = talk.take(service)
        talk.say(service, grant, talk.start(), talk.evaluation(0.3, bpb))
        talk.say(service, grant, *scored(bpb, bpb, size)[1:], first=2)
    grant = talk.take(service)
    receipt = talk.say(service, grant, talk.start(), talk.evaluation(0.3, 2.0))
    assert receipt.command == "continue", "behind the one that is too large, ahead of the one that is not"
    assert talk.say(service, talk.take(service, "w2"), talk.evaluation(0.3, 2.5)).command == "stop"


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_the_sampler_learns_where_a_limit_breaks(service: Service) -> None:
    sampler = {"type": "tpe", "startup_trials": 10, "seed": 3}
    rate = {"optim.matrix_lr": {"uniform": [0.01, 1.0]}}
    late = {}
    for name, limit in (("limited", 1000), ("free", 10_000)):
        constraints = {"artifact_bytes": limit}
        changes = {"name": name, "trials": 36, "space": rate, "sampler": sampler, "constraints": constraints}
        control.create_study(service, LIMITED | changes)
        drawn = []
        for _ in range(36):
            grant = talk.take(service, study=name)
            drawn.append(grant.config["optim"]["matrix_lr"])  # the higher the better, and above 0.5 too large
            talk.say(service, grant, *scored(2.0, 3.0 - drawn[-1], int(2000 * drawn[-1])))
        late[name] = statistics.median(drawn[18:])
    assert late["free"] > 0.7
    assert late["limited"] < 0.6
    best = Results(service.engine).study("limited").best
    assert best is not None
    assert 0.4 < best.params["optim.matrix_lr"] <= 0.5


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_over_http_a_study_is_judged_and_limited(http: httpx.Client) -> None:
    spec = LIMITED | {"points": [{"optim.matrix_lr": 0.02, "model.num_layers": 2}]}
    answer = talk.post(http, "/studies", {"spec": spec})
    assert "1 of them the points of its file" in answer["message"]
    refused = talk.post(http, "/studies", {"spec": spec | {"name": "other", "base": {"export": {}}}}, expect=422)
    assert 'judge = "quantised" needs an artifact to score: set export.scheme in base' in refused["detail"]
    changed = talk.post(http, "/studies", {"spec": spec | {"judge": "final"}}, expect=409)
    assert "judge: quantised → final" in changed["detail"]
    talk.post(http, "/workers", talk.HELLO)
    grant = talk.post(http, "/workers/w1/lease", {})["grant"]
    assert (grant["config"]["optim"]["matrix_lr"], grant["config"]["model"]["num_layers"]) == (0.02, 2)
    talk.post(http, f"/leases/{grant['lease']}/events", talk.numbered(*scored(2.0, 2.4, 1001)))
    plan = talk.post(http, "/studies/tiny/promotions", {"trial": 0, "plan_only": True})
    assert plan["judge"] == "quantised" and "breaks a limit" in plan["notes"][0]


POINTS = [
    {"optim.matrix_lr": 0.02, "model.num_layers": 2},
    {"optim.matrix_lr": 0.04, "model.num_layers": 3},
    {"optim.matrix_lr": 0.06, "model.num_layers": 1},
]


def test_points_go_first_once_and_as_many_as_the_study_has_trials(service: Service) -> None:
    spec = talk.SPEC | {"points": POINTS, "trials": 2, "pruner": {"type": "none"}}
    control.create_study(service, spec)
    control.create_study(service, spec)
    assert talk.states(service) == ["WAITING", "WAITING"]
    control.create_study(service, spec | {"trials": 4})
    for _ in range(4):
        talk.say(service, talk.take(service), *talk.whole(2.0))
    control.create_study(service, spec | {"trials": 4})
    params = [trial.params for trial in talk.trials(service)]
    assert params[:3] == POINTS
    assert len(params) == 4 and params[3] not in POINTS
    assert {trial.state for trial in talk.trials(service)} == {TrialState.COMPLETE}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"judge": "best"}, "judge: "),
        ({"judge": "sliding"}, r'judge = "sliding" needs overlapping windows: set eval.stride in base above 0, got 0'),
        ({"judge": "quantised_sliding", "base": {"export": {"scheme": "int8"}}}, "needs overlapping windows"),
        ({"judge": "quantised_sliding", "base": {"eval": {"stride": 64}}}, "needs an artifact to score"),
        ({"constraints": {"artifact_bytes": 10}}, "constraints.artifact_bytes needs an artifact to weigh"),
        ({"constraints": {"artifact_bytes": 0}}, "constraints.artifact_bytes: "),
        ({"constraints": {"disc": 1}}, "constraints.disc: unknown key"),
        ({"points": [{"optim.matrix_lr": 0.02}]}, r"points\[0\]: no value for model.num_layers"),
        ({"points": [POINTS[0], POINTS[1] | {"optim.matrix_lr": 7.0}]}, r"points\[1\]: optim.matrix_lr: expected"),
        (
            {
                "judge": "quantised",
                "space": {"export.scheme": {"choice": ["int8", "off"]}},
                "base": {"data": {"batch_tokens": 1024}},
            },
            "needs an artifact to score.*with export.scheme = off",
        ),
    ],
)
def test_what_a_config_cannot_say_is_refused_with_the_study(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SweeperError, match=problem):
        control.parse_spec(talk.SPEC | change)


STUDY = """
name = "toy"
trials = 6
judge = "quantised_sliding"
constraints = { artifact_bytes = 3_500_000 }
pruner = { type = "none" }
points = [
  { "optim.matrix_lr" = 0.03, "model.num_layers" = 3 },
  { "optim.matrix_lr" = 0.01, "model.num_layers" = 4 },
  { "optim.matrix_lr" = 0.012, "model.num_layers" = 3 },
  { "optim.matrix_lr" = 0.02, "model.num_layers" = 2 },
  { "optim.matrix_lr" = 0.1, "model.num_layers" = 2 },
  { "optim.matrix_lr" = 0.005, "model.num_layers" = 2 },
]
[budget]
steps = 4
[space]
"optim.matrix_lr" = { log = [0.003, 0.3] }
"model.num_layers" = { int = [2, 4] }
[base.data]
seq_len = 128
batch_tokens = 1024
[base.eval]
stride = 64
[base.export]
scheme = "int8"
"""


@pytest.mark.slow  # each of its steps is tested above and in test_cli.py
def test_a_study_from_its_file_to_its_export_names_the_judged_best(tmp_path: Path) -> None:
    made = Installation(tmp_path, step_seconds=0.0)
    (tmp_path / "toy.toml").write_text(STUDY)
    try:
        launched = made.command("launch", "--study", "toy.toml", "--device", "cpu")
        assert launched.returncode == 0, launched.stdout + launched.stderr
        # The fake's plain score is best at 0.03, the judged one at 0.01, which has a layer too many.
        best = "best: trial 2 quantised sliding val_bpb 1.2763 matrix_lr=0.012 num_layers=3"
        assert f"{best} (1 complete trial over artifact_bytes ≤ 3,500,000 left out)" in launched.stdout
        assert "trial 1 complete" in launched.stdout
        assert "quantised sliding val_bpb 1.2700 but artifact_bytes 4,000,000 over 3,500,000" in launched.stdout
        assert "limit of 3.50 MB: sure to be broken from num_layers 4 on; training decides the rest" in launched.stdout
        assert best in made.command("status", "--study", "toy").stdout
        out = made.command("export", "--study", "toy", "--out", tmp_path / "out")
        assert out.returncode == 0, out.stdout + out.stderr
    finally:
        made.close()
    with (tmp_path / "out" / "trials.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["score"]))
    assert {row["judge"] for row in rows} == {"quantised_sliding"}
    assert next(row["number"] for row in rows if not row["infeasible"]) == "2"
    assert min(rows, key=lambda row: float(row["final_val_bpb"]))["number"] == "0"
