"""The whole service behind its pages: buttons act on a real study, and a worker's events show up live."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from dashboard.app import create_app
from sweeper.protocol import API
from tests.dashboard.serve import served
from tests.sweeper.talk import SPEC, delivery, evaluation, start, step, whole

pytestmark = pytest.mark.browser


class Service:
    """A service on a real port with the study `tiny`, and a worker's side of the protocol."""

    def __init__(self, url: str, client: httpx.Client) -> None:
        self.page = f"{url}/studies/tiny"
        self._client = client

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.get("/studies/tiny").json()
        return found

    def take(self) -> dict[str, Any]:
        hello = {"worker": "w1", "host": "here", "pid": 1, "device": "cpu", "device_name": "test processor"}
        self.post("/workers", hello)
        grant: dict[str, Any] = self.post("/workers/w1/lease", {})["grant"]
        assert grant is not None
        return grant

    def say(self, grant: dict[str, Any], *events: dict[str, Any], first: int = 0) -> dict[str, Any]:
        return self.post(f"/leases/{grant['lease']}/events", delivery(*events, first=first).model_dump(mode="json"))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path))
    monkeypatch.delenv("SWEEPER_STORAGE", raising=False)
    with served(create_app()) as url, httpx.Client(base_url=url + API, timeout=20, trust_env=False) as client:
        service = Service(url, client)
        service.post("/studies", {"spec": SPEC})
        yield service


def toast(page: Page) -> Any:
    return page.locator("#toasts .toast").last


def test_a_study_is_paused_resumed_and_stopped(service, watched):
    page = watched.page
    page.goto(service.page)
    expect(page.get_by_role("button", name="Resume")).to_be_hidden()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#summary")).to_contain_text("paused")
    assert service.summary()["state"] == "paused"
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.get_by_role("button", name="Stop", exact=True).click()
    dialog = page.locator("#confirm")
    dialog.get_by_role("button", name="Keep going").click()
    assert service.summary()["state"] == "running", "asked, and not confirmed"
    page.get_by_role("button", name="Stop", exact=True).click()
    dialog.get_by_role("button", name="Stop").click()
    expect(page.locator("#summary")).to_contain_text("stopped")
    assert service.summary()["state"] == "stopped"
    assert watched.problems == []


def test_values_are_enqueued_and_wrong_ones_refused_in_the_dialog(service, watched):
    page = watched.page
    page.goto(service.page)
    page.get_by_role("button", name="Enqueue values…").click()
    dialog = page.locator("#enqueue")
    dialog.locator("[name='optim.matrix_lr']").fill("7")
    dialog.get_by_role("button", name="Enqueue").click()
    expect(dialog.locator(".problem")).to_contain_text("optim.matrix_lr")
    dialog.locator("[name='optim.matrix_lr']").fill("0.0625")
    dialog.get_by_role("button", name="Enqueue").click()
    expect(dialog).to_be_hidden()
    expect(toast(page)).to_be_visible()
    assert service.take()["config"]["optim"]["matrix_lr"] == 0.0625


def test_a_workers_events_show_up_as_they_are_delivered(service, watched):
    page = watched.page
    page.goto(service.page)
    expect(page.locator("#live")).to_have_text("live")
    grant = service.take()
    service.say(grant, start(), step(0.2), evaluation(0.2, 3.25))
    expect(page.locator("#running")).to_contain_text("streamed val_bpb 3.2500")
    expect(page.locator("[data-figure=curves]")).to_have_attribute("data-drawn", "1")
    service.say(grant, *whole(2.5)[1:], first=3)
    expect(page.locator("#summary .best")).to_contain_text("2.5000")
    expect(page.locator("#trials tbody")).to_contain_text("2.5000")
    assert watched.problems == []


def test_a_running_trial_is_stopped_from_its_page(service, watched):
    grant = service.take()
    service.say(grant, start(), step(0.2))
    page = watched.page
    page.goto(f"{service.page}/trials/{grant['number']}")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator("#confirm").get_by_role("button", name="Stop").click()
    expect(page.locator("#run-head")).to_contain_text("stopping")
    assert service.say(grant, step(0.3), first=2)["command"] == "stop"


def test_a_promotion_is_planned_and_started(service, watched):
    grant = service.take()
    service.say(grant, *whole(2.5))
    page = watched.page
    page.goto(service.page)
    page.get_by_role("button", name="Promote…").click()
    dialog = page.locator("#promote")
    expect(dialog.get_by_role("button", name="Start")).to_be_disabled()
    dialog.get_by_role("button", name="Show the plan").click()
    expect(dialog.locator(".plan")).to_contain_text("204,800 tokens")
    dialog.get_by_role("button", name="Start").click()
    expect(page.locator("#promotions")).to_contain_text("waiting")
    assert service.summary()["promotions"][0]["trial"] == grant["number"]


def test_a_promotion_takes_the_law_that_is_chosen_once_its_plan_was_shown(service, watched):
    grant = service.take()
    service.say(grant, *whole(2.5))
    page = watched.page
    page.goto(service.page)
    page.get_by_role("button", name="Promote…").click()
    dialog = page.locator("#promote")
    show, start = dialog.get_by_role("button", name="Show the plan"), dialog.get_by_role("button", name="Start")
    show.click()
    expect(dialog.locator(".plan")).to_contain_text("the study holds no law of its own")
    expect(dialog.locator(".plan table")).to_contain_text("copied (taken)")
    expect(start).to_be_enabled()
    dialog.locator("select[name=by]").select_option("prior")
    expect(start).to_be_disabled()
    show.click()
    expect(dialog.locator(".plan table")).to_contain_text("prior law (taken)")
    start.click()
    expect(page.locator("#promotions")).to_contain_text("by the prior law")
    assert service.summary()["promotions"][0]["by"] == "prior"
    assert watched.problems == []


def test_promoting_before_any_trial_is_refused_with_the_reason(service, watched):
    page = watched.page
    page.goto(service.page)
    page.get_by_role("button", name="Promote…").click()
    page.locator("#promote").get_by_role("button", name="Show the plan").click()
    expect(page.locator("#promote .problem")).not_to_be_empty()


def test_an_action_that_fails_says_so(service, watched):
    page = watched.page
    page.goto(service.page)
    page.route("**/pause", lambda route: route.abort())
    page.get_by_role("button", name="Pause").click()
    expect(toast(page)).to_contain_text("The service does not answer")
