"""The scaling page over a real server, and in a real Chromium at two widths."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import expect
from sqlalchemy import Engine

from dashboard.card_files import CardFiles, code_version
from dashboard.figures_scaling import Card
from dashboard.routes import scaling_cards
from dashboard.routes.scaling import PLOTS
from dashboard.routes.scaling_cards import Cards, Draw
from dashboard.theme import Theme
from sweeper.observations_fits import Fits
from sweeper.observations_read import FitsStore
from sweeper.observations_switches import Switches
from sweeper.results import Results
from tests.dashboard import scaled
from tests.dashboard.serve import app_over, served
from tests.dashboard.synthetic import Writer
from tests.dashboard.test_browser import scroll_through, wait_for_figure

PAGE = f"/studies/{scaled.NAME}/scaling"


@pytest.fixture
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=60, trust_env=False) as client:
        yield client


def test_the_page_is_linked_from_the_study_and_has_a_card_for_each_figure(client, engine):
    scaled.write(engine, 60)
    assert f'href="{PAGE}"' in client.get(f"/studies/{scaled.NAME}").text
    page = client.get(PAGE, params={"params": "all"})
    assert page.status_code == 200
    assert re.findall(r'data-figure="(\w+)"', page.text) == list(PLOTS)
    assert '<option value="all" selected>' in page.text


def test_figures_and_laws_follow_the_conventions(client, engine):
    scaled.write(engine, 240)
    given, adamw = (
        client.get(f"{PAGE}/figures/bowls", params={"rate": rate}).json()["figures"]["bowls"]
        for rate in ("as_given", "adamw")
    )
    assert "matrix_lr" in given["layout"]["xaxis"]["title"]["text"]
    assert "AdamW" in adamw["layout"]["xaxis"]["title"]["text"]
    laws = client.get(f"{PAGE}/laws").text
    assert "exponent of batch_tokens" in laws and "not identified" in laws and "no two complete runs" in laws
    assert client.get(f"{PAGE}/figures/bowls", params={"rate": "both"}).status_code == 422
    assert "known: bowls" in client.get(f"{PAGE}/figures/nothing").json()["detail"]
    assert client.get("/studies/nowhere/scaling").status_code == 404
    assert client.get("/studies/nowhere/scaling/figures/bowls").status_code == 404


def test_a_figure_is_sent_again_only_when_another_run_has_ended(client, engine):
    scaled.write(engine, 60)
    first = client.get(f"{PAGE}/figures/bowls")
    assert first.headers["content-encoding"] == "gzip"
    known = {"If-None-Match": first.headers["etag"]}
    assert client.get(f"{PAGE}/figures/bowls", headers=known).status_code == 304
    assert client.get(f"{PAGE}/figures/bowls?loss=streamed", headers=known).status_code == 200
    scaled.write(engine, 60, name="another")
    assert client.get(f"{PAGE}/figures/bowls", headers=known).status_code == 304
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sweeper_runs SET ended_at = ended_at + 1 WHERE number = 3")
    assert client.get(f"{PAGE}/figures/bowls", headers=known).status_code == 200


def test_what_is_drawn_can_be_had_as_csv(client, engine):
    scaled.write(engine, 120)
    answer = client.get(f"{PAGE}/loss.csv", params={"params": "matrices"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.text.startswith("trace,x,y,")
    empty = client.get(f"{PAGE}/noise.csv")
    assert (empty.status_code, "nothing is drawn" in empty.json()["detail"]) == (404, True)


def test_an_empty_study_says_in_each_card_what_to_run(client, writer):
    for key in PLOTS:
        answer = client.get(f"/studies/lr-wd-batch/scaling/figures/{key}").json()
        assert answer["figures"] == {} and len(answer["note"]) > 30, key
        assert "--study S" not in answer["note"], "commands name the study"


def test_a_study_of_many_axes_and_few_trials_draws_or_says_why(client, writer: Writer):
    writer.typical()
    for key in PLOTS:
        answer = client.get(f"/studies/lr-wd-batch/scaling/figures/{key}")
        assert answer.status_code == 200, key
        assert answer.json()["figures"] or answer.json()["note"], key


def test_a_card_is_drawn_once_until_another_run_has_ended(engine):
    scaled.write(engine, 60)
    drawn: list[str] = []

    def card(key: str) -> Callable[[Fits, Theme], Card]:
        return lambda fits, theme: drawn.append(key) or Card(empty=f"{key}: sweeper launch --study S")

    cards = Cards(FitsStore(engine, Results(engine)), {key: card(key) for key in ("first", "second")})
    cards.prepare(scaled.NAME, Switches())
    assert drawn == ["first", "second"], "in the order of the page"
    body = json.loads(cards.body(scaled.NAME, "second", Switches(), "light"))
    assert body["note"] == f"second: sweeper launch --study {scaled.NAME}"
    assert drawn == ["first", "second"]
    cards.body(scaled.NAME, "second", Switches(params="all"), "light")
    cards.body(scaled.NAME, "second", Switches(), "dark")
    assert drawn == ["first", "second", "second", "second"]
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sweeper_runs SET ended_at = ended_at + 1 WHERE number = 3")
    cards.body(scaled.NAME, "second", Switches(), "light")
    assert len(drawn) == 5


def a_run_goes_on(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sweeper_runs SET state = 'running' WHERE number = 3")


def it_ends(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sweeper_runs SET state = 'complete' WHERE number = 3")


def test_a_figure_of_fewer_runs_is_shown_at_once_says_so_and_is_fitted_anew_when_asked(client, engine):
    scaled.write(engine, 60)
    a_run_goes_on(engine)
    address = f"{PAGE}/figures/bowls"
    before = client.get(address).json()
    assert "stale" not in before
    it_ends(engine)
    stale = client.get(address)
    assert stale.json() == before | {"stale": "Fits of 59 of 60 ended runs; new fits are being made."}
    assert "etag" not in stale.headers, "what is stale is never confirmed as current"
    fresh = client.get(address, params={"fresh": True}).json()
    assert "stale" not in fresh and fresh != before
    assert client.get(address).json() == fresh


def test_a_figure_is_not_shown_where_more_has_changed_than_that_runs_were_added(client, engine):
    scaled.write(engine, 60)
    a_run_goes_on(engine)
    address = f"{PAGE}/figures/bowls"
    client.get(address)
    it_ends(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sweeper_studies SET spec = json_set(spec, '$.judge', 'quantised')")
    assert "stale" not in client.get(address).json()
    a_run_goes_on(engine)
    assert "stale" not in client.get(address).json(), "fewer runs than it was drawn of"


def test_cards_outlive_the_process_for_the_same_code_and_the_same_study(engine, tmp_path):
    scaled.write(engine, 60)
    drawn: list[str] = []
    plots: dict[str, Draw] = {"first": lambda fits, theme: drawn.append("first") or Card(empty="sweeper launch")}

    def started() -> Cards:
        return Cards(FitsStore(engine, Results(engine)), plots, CardFiles(tmp_path / "cache"))

    body = started().body(scaled.NAME, "first", Switches(), "light")
    assert started().body(scaled.NAME, "first", Switches(), "light") == body
    assert drawn == ["first"]
    started().prepare_first(scaled.NAME)
    assert drawn == ["first"]
    a_run_goes_on(engine)
    assert started().earlier(scaled.NAME, "first", Switches(), "light") is None
    (file,) = (tmp_path / "cache").glob("cards-*/*")
    file.write_bytes(file.read_bytes()[:-1])
    started().body(scaled.NAME, "first", Switches(), "light")
    assert drawn == ["first", "first"], "a file that was cut short is no card"


def test_cards_of_another_version_of_the_code_are_not_read_and_make_way(tmp_path):
    place = ("laws", "bowls")
    old = tmp_path / "cards-000000000000"
    old.mkdir()
    (old / "x").write_bytes(b"")
    files = CardFiles(tmp_path)
    assert files.read(place) is None
    files.write(place, (1, 2, 3.5, "{}"), b"{}")
    assert files.read(place) == ((1, 2, 3.5, "{}"), b"{}")
    assert [folder.name for folder in tmp_path.iterdir()] == [f"cards-{code_version()}"]
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    CardFiles(blocked).write(place, (1,), b"{}")  # warns, and goes on
    assert CardFiles(blocked).read(place) is None


def test_a_look_at_the_study_draws_what_its_scaling_page_shows_first_where_it_never_was(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling_cards, "LATER_SECONDS", 0.0)
    scaled.write(engine, 60)
    app = app_over(engine)
    app.state.cache = tmp_path / "cache"
    with served(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        assert client.post("/studies/nowhere/scaling/first").status_code == 404
        for _ in range(2):
            assert client.post(f"/studies/{scaled.NAME}/scaling/first").status_code == 204
            deadline = time.monotonic() + 20
            while len(list(app.state.cache.glob("cards-*/*"))) < scaling_cards.IN_VIEW:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    assert len(list(app.state.cache.glob("cards-*/*"))) == scaling_cards.IN_VIEW


def test_a_server_that_stops_does_not_wait_for_cards_that_nobody_reads(engine):
    scaled.write(engine, 480, points=10)
    with served(app_over(engine)) as url:
        assert httpx.get(url + PAGE, trust_env=False).status_code == 200
        began = time.monotonic()
    assert time.monotonic() - began < 4.0, "less than the server's patience"


@pytest.mark.browser
def test_figures_in_view_are_asked_for_before_those_below_and_all_of_them_in_the_end(server, engine, watched):
    scaled.write(engine, 480, points=10)
    page = watched.page
    page.goto(server + PAGE)
    for key in ("bowls", "rate"):
        wait_for_figure(page, key)
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")  # past all others at once
    wait_for_figure(page, "residuals")
    asked = [address.split("/figures/")[1].split("?")[0] for address in watched.addresses if "/figures/" in address]
    assert set(asked[:2]) == {"bowls", "rate"}
    assert len(asked) == len(set(asked)), "each once"
    assert watched.problems == []


@pytest.mark.browser
def test_stale_figures_are_drawn_at_once_with_a_line_that_goes_when_the_new_ones_are_there(server, engine, watched):
    scaled.write(engine, 240)
    a_run_goes_on(engine)
    with httpx.Client(base_url=server, timeout=60, trust_env=False) as client:
        for key in PLOTS:
            client.get(f"{PAGE}/figures/{key}")
    it_ends(engine)
    page, held, free = watched.page, [], []
    page.route("**/*fresh=true*", lambda route: route.continue_() if free else held.append(route))
    page.goto(server + PAGE)
    for key in ("bowls", "rate"):
        wait_for_figure(page, key)
        expect(page.locator(f"[data-card={key}] .stale")).to_have_text(
            "Fits of 239 of 240 ended runs; new fits are being made."
        )
    free.append(True)
    for route in held:
        route.continue_()
    for key in ("bowls", "rate"):
        expect(page.locator(f"[data-card={key}] .stale")).to_be_empty()
        expect(page.locator(f"[data-figure={key}]")).to_have_attribute("data-drawn", "2")
    assert watched.problems == []


@pytest.mark.browser
@pytest.mark.parametrize("watched", [(1440, 900), (390, 844)], indirect=True)
def test_all_cards_are_filled_and_nothing_is_wider_than_the_page(server, engine, watched):
    scaled.write(engine, 480, points=10, promotions=1)
    page = watched.page
    page.goto(server + PAGE)
    scroll_through(page)
    for key in PLOTS:
        if key not in ("noise", "frontier"):
            wait_for_figure(page, key)
    expect(page.locator("[data-card=noise] .empty")).to_contain_text("No two complete runs have equal values")
    expect(page.locator("[data-card=rate] .says")).to_contain_text("The best rate goes as")
    expect(page.locator("[data-card=bowls] .about")).to_contain_text("Rests on")
    page.wait_for_selector("#laws[data-read] table")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("scrollTo(0, 0)")
    drawn = page.get_attribute("[data-figure=bowls]", "data-drawn")
    page.select_option("select[name=params]", "matrices")
    expect(page.locator("[data-figure=bowls]")).not_to_have_attribute("data-drawn", str(drawn))
    assert "params=matrices" in page.url
    assert watched.problems == []
    assert {address.split("/")[2] for address in watched.addresses if address.startswith("http")} == {
        server.removeprefix("http://")
    }
