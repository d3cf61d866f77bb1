"""The pages in a real Chromium: charts, live updates, table, actions; nothing from elsewhere, nothing too wide."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.planned import planned
from tests.dashboard.serve import app_over, served
from tests.dashboard.synthetic import Writer

pytestmark = pytest.mark.browser

STUDY = "/studies/lr-wd-batch"
FIGURES = ("curves", "history", "parameters", "parallel", "importances")


def scroll_through(page: Page) -> None:
    """Bring everything into view once, as a reader does: figures load when they are near."""
    for _ in range(40):
        done = page.evaluate("(scrollBy(0, 500), scrollY + innerHeight >= document.documentElement.scrollHeight - 1)")
        page.wait_for_timeout(60)
        if done:
            break


def wait_for_figure(page: Page, key: str) -> None:
    page.wait_for_selector(f"[data-figure={key}][data-drawn]", state="attached")


def numbers(page: Page) -> list[str]:
    return page.locator("#trials tbody tr td:first-child").all_inner_texts()


def test_all_charts_are_drawn_without_an_error_and_from_this_server_alone(server, writer, watched):
    writer.typical()
    page = watched.page
    page.goto(server + STUDY)
    scroll_through(page)
    for key in FIGURES:
        wait_for_figure(page, key)
    assert page.locator("[data-figure=parameters] .plot").count() == 4
    assert page.locator("[data-figure=curves] .scatterlayer .trace").count() == 4
    expect(page.locator("#live")).to_have_text("live")
    assert watched.problems == []
    assert {address.split("/")[2] for address in watched.addresses if address.startswith("http")} == {
        server.removeprefix("http://")
    }


def test_new_trials_arrive_without_a_reload(server, writer, watched):
    writer.typical()
    page = watched.page
    page.goto(server + STUDY)
    wait_for_figure(page, "curves")
    expect(page.locator("#live")).to_have_text("live")
    drawn = page.get_attribute("[data-figure=curves]", "data-drawn")
    page.evaluate("window.sameDocument = true")
    writer.trial(15)
    expect(page.locator("#summary")).to_contain_text("7 complete")
    expect(page.locator("#trials tbody tr").first).to_contain_text("15")
    expect(page.locator("[data-figure=curves]")).not_to_have_attribute("data-drawn", str(drawn))
    assert page.evaluate("window.sameDocument")
    assert watched.problems == []


def test_the_page_finds_its_way_back_after_the_service_was_away(engine, writer, watched):
    writer.typical()
    page = watched.page
    with served(app_over(engine)) as url:
        page.goto(url + STUDY)
        expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("#live")).to_have_text("reconnecting…")
    writer.trial(15)
    with served(app_over(engine), port=int(url.rsplit(":", 1)[1])):
        expect(page.locator("#summary")).to_contain_text("7 complete")
        expect(page.locator("#trials tbody tr").first).to_contain_text("15")
        expect(page.locator("#live")).to_have_text("live")


def test_the_table_sorts_filters_and_pages(server, engine, watched):
    writer = Writer(engine, trials=200)
    for number in range(60):
        writer.trial(number, "pruned" if number % 2 else "complete", points=3)
    page = watched.page
    page.goto(server + STUDY)
    expect(page.locator("#trials tbody tr")).to_have_count(50)
    assert numbers(page)[:2] == ["59", "58"]
    page.get_by_role("button", name="Next").click()
    assert numbers(page)[-1] == "0"
    header = page.locator("#trials th[data-key=score]")
    header.get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", "ascending")
    scores = page.locator("#trials tbody tr td:nth-child(3)").all_inner_texts()
    known = [float(score) for score in scores if score != "–"]
    assert known == sorted(known)
    assert scores[len(known) :] == ["–"] * (50 - len(known)), "unknown scores come last"
    page.get_by_role("button", name="pruned 30").click()
    expect(page.locator("#trials tbody tr")).to_have_count(30)
    page.get_by_role("searchbox").fill("behind at 30")
    expect(page.locator("#trials tbody tr")).to_have_count(30)
    page.get_by_role("searchbox").fill("no such thing")
    expect(page.locator("#pager")).to_contain_text("no trial matches")
    assert watched.problems == []


def test_a_filter_survives_a_live_update(server, writer, watched):
    writer.typical()
    page = watched.page
    page.goto(server + STUDY)
    page.get_by_role("button", name="pruned 5").click()
    expect(page.locator("#trials tbody tr")).to_have_count(5)
    writer.trial(15, "pruned")
    expect(page.locator("#trials tbody tr")).to_have_count(6)


def test_the_curve_metric_can_be_switched(server, writer, watched):
    writer.typical()
    page = watched.page
    page.goto(server + STUDY)
    wait_for_figure(page, "curves")
    page.get_by_role("button", name="train loss").click()
    expect(page.locator("[data-figure=curves] .ytitle")).to_contain_text("train loss")


def test_a_trial_page_draws_its_curves_and_follows_its_run(server, writer, watched):
    writer.trial(0)
    run = writer.trial(1, "running", progress=0.5)
    page = watched.page
    page.goto(f"{server}{STUDY}/trials/1")
    wait_for_figure(page, "run")
    expect(page.locator("#run-facts")).to_contain_text("50%")
    writer.advance(run, state="pruned", reason="behind at 60 %", progress=0.6, ended_at=writer.now)
    expect(page.locator("#run-head")).to_contain_text("behind at 60 %")
    expect(page.locator("#run-facts")).to_contain_text("60%")
    expect(page.locator("#run-stop button")).to_have_count(0)
    assert watched.problems == []


def test_a_click_on_a_table_row_leads_to_the_trial(server, writer, watched):
    writer.typical()
    page = watched.page
    page.goto(server + STUDY)
    page.locator("#trials tbody a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Trial 14")


@pytest.mark.parametrize("watched", [(390, 844)], indirect=True)
@pytest.mark.parametrize("path", ["/", STUDY, f"{STUDY}/trials/0"])
def test_nothing_is_wider_than_a_phone(server, writer, watched, path):
    writer.typical()
    writer.promotion(0, 4)
    writer.run("promotion", 0, "running", writer.params(), 0.4, 40, tokens=80_000_000)
    page = watched.page
    page.goto(server + path)
    scroll_through(page)
    if path != "/":
        page.wait_for_selector("[data-drawn]", state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert watched.problems == []


def test_everything_can_be_reached_by_keyboard_and_has_a_name(server, writer, watched):
    writer.typical()
    page = watched.page
    page.goto(server + STUDY)
    expect(page.locator("#trials tbody tr")).to_have_count(15)
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, a, input, select")].filter((e) => !e.closest("dialog")
             && !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map((e) => e.outerHTML)"""
    )
    assert nameless == []


def test_dark_and_light_figures_differ(server, writer, watched):
    writer.typical()
    page = watched.page
    page.goto(server + STUDY)
    wait_for_figure(page, "curves")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    drawn = page.get_attribute("[data-figure=curves]", "data-drawn")
    page.emulate_media(color_scheme="dark")
    expect(page.locator("[data-figure=curves]")).not_to_have_attribute("data-drawn", str(drawn))
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert page.evaluate("document.querySelector('[data-figure=curves] .plot').layout.font.color") == "#e5eaf1"


@pytest.mark.parametrize("watched", [(1440, 900), (390, 844)], indirect=True)
def test_a_promotion_shows_phases_success_and_samples_and_follows_its_run(server, writer, watched):
    run = planned(writer, 0, progress=0.3)
    page = watched.page
    page.goto(f"{server}{STUDY}/promotions/0")
    scroll_through(page)
    for key in ("run", "throughput", "forecast"):
        wait_for_figure(page, key)
    assert page.locator("[data-figure=forecast] .scatterlayer .trace").count() == 4
    for heading in ("Phases", "Success", "Samples", "Parameters and topology"):
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    expect(page.locator("#run-phases tbody tr")).to_have_count(4)
    expect(page.locator("#run-phases .phases > div")).to_have_count(4)
    expect(page.locator("#run-success tbody tr")).to_have_count(7)
    expect(page.locator("#run-success tbody tr").first).to_contain_text("PASS")
    expect(page.locator("#run-samples .prompt").first).to_have_text("Once <b>upon")
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
    wide, narrow = page.locator("#run-phases .phases > div").first, page.locator("#run-phases .phases > div").last
    assert wide.bounding_box()["width"] > 3 * narrow.bounding_box()["width"], "as wide as their tokens are many"
    expect(page.locator("#live")).to_have_text("live")
    writer.advance(run, tokens=1_600_000_000, progress=0.51, last_seq=99)
    expect(page.locator("#run-phases tbody tr").nth(1)).to_contain_text("running")
    expect(page.locator("#run-phases tbody tr").first).to_contain_text("complete")
    expect(page.locator("#run-success")).to_contain_text("1,600,000,000 positions")
    assert watched.problems == []
