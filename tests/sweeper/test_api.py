"""The API over real HTTP: answers, errors as messages, many workers at once, kill and restart."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from sweeper.settings import Settings
from tests.sweeper import talk

HELLO = talk.HELLO
numbered = talk.numbered
post = talk.post


@pytest.fixture
def storage_url(tmp_path: Path, migrated_file: Path) -> str:
    """One kind of database; test_restarts.py has both."""
    shutil.copy(migrated_file, tmp_path / "sweeper.db")
    return f"sqlite:///{tmp_path / 'sweeper.db'}"


@pytest.fixture
def study_http(http: httpx.Client) -> httpx.Client:
    post(http, "/studies", {"spec": talk.SPEC})
    post(http, "/workers", HELLO)
    return http


def test_health_names_the_database_without_its_password(http: httpx.Client, settings: Settings) -> None:
    health = http.get("/health").json()
    assert health["service"] == "sweeper"
    assert health["home"] == str(settings.home)
    assert health["storage"].startswith(("sqlite:///", "postgresql+psycopg://postgres:***@"))


def test_a_trial_from_hello_to_goodbye(study_http: httpx.Client) -> None:
    welcome = post(study_http, "/workers", HELLO)
    assert 0 < welcome["heartbeat_seconds"] < welcome["lease_seconds"] == 60
    grant = post(study_http, "/workers/w1/lease", {"study": "tiny"})["grant"]
    path = f"/leases/{grant['lease']}/events"

    assert post(study_http, path, {"events": []}) == {"through": -1, "command": "continue", "reason": ""}
    assert post(study_http, path, numbered(*talk.whole(2.5)))["through"] == 4
    assert "goodbye" in post(study_http, "/workers/w1/goodbye", {"reason": "done"})["message"]


def test_creating_confirming_and_extending_a_study(http: httpx.Client) -> None:
    def create(**changes: Any) -> str:
        return str(post(http, "/studies", {"spec": {**talk.SPEC, **changes}})["message"])

    assert create() == "created study tiny: 4 trials to do"
    assert create() == "study tiny: 0 of 4 trials told; it goes on"
    post(http, "/workers", HELLO)
    for _ in range(4):
        grant = post(http, "/workers/w1/lease", {})["grant"]
        post(http, f"/leases/{grant['lease']}/events", numbered(*talk.whole(2.5)))
    assert create() == (
        "study tiny: 4 of 4 trials told; it is complete. To extend it, raise `trials` in its file, "
        "or launch it with --trials 8"
    )
    assert post(http, "/workers/w1/lease", {})["no_work"]["reason"] == "complete"
    assert create(trials=6) == "study tiny: 4 of 6 trials told; changed: trials 4 → 6; it goes on"
    assert post(http, "/workers/w1/lease", {})["grant"]["number"] == 4


def test_an_incompatible_study_is_refused_with_its_differences(study_http: httpx.Client) -> None:
    changed = {**talk.SPEC, "budget": {"tokens": 20_480, "rungs": [0.3, 0.6]}, "trials": 9}
    detail = post(study_http, "/studies", {"spec": changed}, expect=409)["detail"]
    assert "budget.tokens: 10240 → 20480" in detail
    assert "0 of 4" in post(study_http, "/studies", {"spec": talk.SPEC})["message"], "nothing was changed"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({}, "name|profile|trials|space|budget"),
        ({**talk.SPEC, "name": ""}, "name: string should match"),
        ({**talk.SPEC, "trials": 0}, "trials"),
        ({**talk.SPEC, "typo": 1}, "typo"),
        ({**talk.SPEC, "space": {"optim.matrix_rl": {"log": [0.1, 1.0]}}}, "matrix_rl.*did you mean"),
        ({**talk.SPEC, "space": {"model.num_layers": {"int": [0, 3]}}}, "num_layers"),
    ],
)
def test_an_impossible_study_is_bad_input(http: httpx.Client, spec: dict[str, Any], problem: str) -> None:
    assert re.search(problem, post(http, "/studies", {"spec": spec}, expect=422)["detail"], re.DOTALL)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"optim.matrix_lr": 0.02}, "no value for model.num_layers"),
        ({"optim.matrix_lr": 0.02, "model.num_layers": 2, "typo": 1}, "typo is not searched"),
        ({"optim.matrix_lr": 5.0, "model.num_layers": 2}, "expected a number in \\[0.005, 0.1\\], got 5.0"),
        ({"optim.matrix_lr": "big", "model.num_layers": 2}, "got 'big'"),
        ({"optim.matrix_lr": 0.02, "model.num_layers": 2.5}, "whole number"),
    ],
)
def test_impossible_values_are_not_queued(study_http: httpx.Client, params: dict[str, Any], problem: str) -> None:
    detail = post(study_http, "/studies/tiny/enqueue", {"params": params}, expect=422)["detail"]
    assert re.search(problem, detail)
    assert post(study_http, "/workers/w1/lease", {})["grant"]["number"] == 0


def test_control_verbs_say_what_they_did(study_http: httpx.Client) -> None:
    def verb(path: str, expect: int = 200) -> str:
        answer = post(study_http, path, expect=expect)
        return str(answer["message" if expect == 200 else "detail"])

    params = {"optim.matrix_lr": 0.02, "model.num_layers": 2}
    queued = post(study_http, "/studies/tiny/enqueue", {"params": params})["message"]
    assert queued == "queued as trial 0 of study tiny: it runs next"
    assert verb("/studies/tiny/trials/0/stop") == "trial 0 is taken out of the queue"
    assert "nothing to stop" in verb("/studies/tiny/trials/0/stop", 409)
    assert "no trial 5" in verb("/studies/tiny/trials/5/stop", 404)
    assert verb("/studies/tiny/pause") == "study tiny is paused; trials still running to their end: 0"
    assert verb("/studies/tiny/pause") == "study tiny is paused already"
    assert verb("/studies/tiny/resume") == "study tiny is running again"
    assert post(study_http, "/workers/w1/lease", {})["grant"]["number"] == 1
    assert verb("/studies/tiny/trials/1/stop") == "trial 1 of study tiny is told to stop"
    assert verb("/studies/tiny/stop") == "study tiny is stopped; running trials told to stop: 1"
    for unknown in ("pause", "resume", "stop", "trials/0/stop", "promotions/0/stop"):
        assert "no study 'other' here; known are: tiny" in verb(f"/studies/other/{unknown}", 404)


def test_a_promotion_over_http(study_http: httpx.Client) -> None:
    path = "/studies/tiny/promotions"
    assert "nothing to promote" in post(study_http, path, {}, expect=409)["detail"]
    grant = post(study_http, "/workers/w1/lease", {})["grant"]
    post(study_http, f"/leases/{grant['lease']}/events", numbered(*talk.whole(2.5)))
    assert "3B, 500M or 20x" in post(study_http, path, {"tokens": "many"}, expect=422)["detail"]
    assert post(study_http, path, {"plan_only": True})["number"] is None
    assert post(study_http, path, {"trial": 0, "tokens": "4x"})["number"] == 0
    assert post(study_http, "/workers/w1/lease", {})["grant"]["kind"] == "promotion"
    assert "told to stop" in post(study_http, f"{path}/0/stop")["message"]


def test_unknown_workers_and_leases_are_not_found(study_http: httpx.Client) -> None:
    assert "hello first" in post(study_http, "/workers/nobody/lease", {}, expect=404)["detail"]
    assert "no study 'x'" in post(study_http, "/workers/w1/lease", {"study": "x"}, expect=404)["detail"]
    assert "no lease 99" in post(study_http, "/leases/99/events", {"events": []}, expect=404)["detail"]


def test_a_worker_that_lost_its_lease_is_told_so(study_http: httpx.Client) -> None:
    grant = post(study_http, "/workers/w1/lease", {})["grant"]
    post(study_http, "/workers/w1/goodbye", {"reason": "interrupted"})
    late = post(study_http, f"/leases/{grant['lease']}/events", numbered(talk.start()), expect=409)
    assert "said goodbye" in late["detail"]


@pytest.mark.parametrize(
    "body",
    [
        '{"events": [{"seq": 0, "at": 1.0, "event": {"event": "step", "train_loss": NaN}}]}',
        '{"events": [{"seq": 0, "at": Infinity, "event": {}}]}',
        '{"events": [{"seq": 0, "at": 1e999, "event": {}}]}',
        '{"events": [{"seq": -1, "at": 1.0, "event": {}}]}',
        '{"events": [{"seq": 99999999999, "at": 1.0, "event": {}}]}',
        '{"events": [{"seq": 0, "at": 1.0, "event": "text"}]}',
        '{"events": [], "more": 1}',
        '{"events": ',
        "[]",
    ],
)
def test_a_delivery_that_is_none_is_bad_input(study_http: httpx.Client, body: str) -> None:
    grant = post(study_http, "/workers/w1/lease", {})["grant"]
    path = f"/leases/{grant['lease']}/events"
    answer = study_http.post(path, content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)
    assert post(study_http, path, {"events": []})["through"] == -1


def test_an_endless_number_inside_an_event_does_no_harm(study_http: httpx.Client) -> None:
    grant = post(study_http, "/workers/w1/lease", {})["grant"]
    body = '{"events": [{"seq": 0, "at": 1.0, "event": {"event": "step", "train_loss": 1e999}}]}'
    path = f"/leases/{grant['lease']}/events"
    answer = study_http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.json()["through"] == 0
