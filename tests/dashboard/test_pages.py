"""Pages, assets and figures over a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from sweeper.tables import ExportRow, NoteRow, OutcomeRow, RunRow, ScoreRow, StudyRow
from tests.dashboard import synthetic
from tests.dashboard.planned import planned
from tests.dashboard.serve import app_over, served
from tests.dashboard.synthetic import Writer

STUDY = "/studies/lr-wd-batch"


@pytest.fixture
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=20, trust_env=False) as client:
        yield client


def test_an_empty_installation_says_what_to_run(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "sweeper launch --study lr-wd-batch --workers 1" in page.text


def test_the_index_lists_studies_with_their_progress(client, engine):
    Writer(engine, "first").trial(0)
    Writer(engine, "second study")
    page = client.get("/").text
    assert 'href="/studies/first"' in page
    assert 'href="/studies/second%20study"' in page
    assert "1 of 16" in page


def test_an_empty_study_says_what_to_run_and_what_will_appear(client, writer):
    page = client.get(STUDY).text
    assert "Nothing runs. Start a worker: <code>sweeper launch --study lr-wd-batch --workers 1</code>" in page
    assert "No promotion yet" in page
    for key in ("curves", "history", "parameters", "parallel", "importances"):
        answer = client.get(f"{STUDY}/figures/{key}").json()
        assert answer["figures"] == {}
        assert answer["note"], key


def test_the_study_page_tells_progress_best_and_runs(client, writer):
    writer.typical()
    page = client.get(STUDY).text
    assert "6 complete" in page
    assert "6 pruned" in page
    assert "1 failed" in page
    best = client.get("/api/v1/studies/lr-wd-batch").json()["best"]
    assert f"{best['val_bpb']:.4f}" in page
    assert f"{STUDY}/trials/13" in page


def test_every_figure_of_a_study_in_both_themes(client, writer):
    writer.typical()
    writer.promotion(0, 4)
    writer.run("promotion", 0, "running", writer.params(), 0.4, 40, tokens=80_000_000)
    for key in ("curves", "history", "parameters", "parallel", "importances", "promotions"):
        for theme in ("light", "dark"):
            answer = client.get(f"{STUDY}/figures/{key}", params={"theme": theme})
            assert answer.status_code == 200, key
            assert answer.json()["figures"], key
    assert set(client.get(f"{STUDY}/figures/parameters").json()["figures"]) == set(writer.params())
    losses = client.get(f"{STUDY}/figures/curves", params={"metric": "train_loss"}).json()["figures"]["curves"]
    assert "train loss" in losses["layout"]["yaxis"]["title"]["text"]


def test_a_figure_is_sent_again_only_when_something_changed(client, writer):
    run = writer.trial(0, "running")
    first = client.get(f"{STUDY}/figures/curves")
    known = {"If-None-Match": first.headers["etag"]}
    assert client.get(f"{STUDY}/figures/curves", headers=known).status_code == 304
    assert client.get(f"{STUDY}/figures/curves?theme=dark", headers=known).status_code == 200
    writer.advance(run, last_seq=99)
    assert client.get(f"{STUDY}/figures/curves", headers=known).status_code == 200


def test_the_table_is_columns_and_rows(client, writer):
    writer.typical()
    table = client.get(f"{STUDY}/table").json()
    assert len(table["rows"]) == 15
    row = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert row["number"] == 0
    assert row["state"] == "complete"
    assert 0.005 <= row["optim.matrix_lr"] <= 0.1


def test_a_trial_page_shows_values_config_messages_and_failures(client, writer):
    writer.trial(0, "failed", params=(params := writer.params()))
    writer.trial(1, "complete", params=params, attempt=2)
    page = client.get(f"{STUDY}/trials/1").text
    assert "Final val_bpb" in page
    assert "matrix_lr" in page
    assert "a line of stderr" in page
    assert "died: signal 9" in page, "the earlier attempt with the same values and why it failed"
    assert 'class="searched"' in page
    figures = client.get(f"{STUDY}/trials/1/figures").json()["figures"]
    assert set(figures) == {"run", "throughput"}


def test_a_trial_page_says_how_sure_its_score_is_and_what_was_compiled(client, writer):
    writer.trial(0, "complete")
    writer.trial(1, "pruned")
    complete, pruned = (text_of(client.get(f"{STUDY}/trials/{number}").text) for number in (0, 1))
    assert re.search(r"Final val_bpb \d\.\d{4} ± 0\.0017", complete)
    assert re.search(r"Streamed val_bpb \d\.\d{4} ± 0\.0034", pruned)
    assert "devices 2" in complete
    assert "compiled graphs 12, 1 graph break in this trainer process" in complete
    figures = client.get(f"{STUDY}/trials/0/figures").json()["figures"]
    evals = next(trace for trace in figures["run"]["data"] if trace["name"] == "streamed val_bpb")
    assert {hover[2] for hover in evals["customdata"]} == {" ± 0.0034"}


def limited(writer):
    """The writer's study, judged by its quantised scores and limited in bytes."""
    spec = synthetic.spec(writer.name, 16) | {"judge": "quantised", "constraints": {"artifact_bytes": 16_000_000}}
    with Session(writer.engine) as session:
        session.execute(update(StudyRow).values(spec=spec))
        session.commit()


def test_a_study_without_a_feasible_trial_says_so(client, writer):
    limited(writer)
    writer.trial(0, score=1.5, infeasible="artifact_bytes 17,000,000 over 16,000,000")
    assert "No trial is feasible: all 1 that are complete break the limit" in text_of(client.get(STUDY).text)
    assert client.get(f"{STUDY}/figures/history").json()["figures"]
    assert "keep the study's limits" in client.get(f"{STUDY}/figures/parallel").json()["note"]


def test_a_limited_study_says_by_which_score_and_what_is_over_the_limit(client, writer, engine):
    limited(writer)
    over = writer.trial(0, score=1.5, infeasible="artifact_bytes 17,000,000 over 16,000,000")
    writer.trial(1, score=1.6)
    with Session(engine) as session:
        score = {"step": 500, "seconds": 20.0, "val_loss": 3.0, "val_tokens": 65_536, "eval_seconds": 4.0}
        session.add(ScoreRow(run_id=over, name="quantised", tokens=9, val_bpb=1.5, val_bpb_stderr=0.002, **score))
        export = {"scheme": "int8", "codec": "zlib", "code_bytes": 0, "raw_bytes": 18_000_000, "val_bpb": 1.5}
        session.add(ExportRow(run_id=over, artifact_bytes=17_000_000, gap=0.0123, export_seconds=3.0, **export))
        session.commit()

    study, trial = (text_of(client.get(path).text) for path in (STUDY, f"{STUDY}/trials/0"))
    assert "Best quantised val_bpb 1.6000 bits per byte · trial 1" in study
    assert "Limit: artifact bytes ≤ 16,000,000; 1 complete trial over it left out." in study
    assert "Trial 0 ● complete ! over limit artifact_bytes 17,000,000 over 16,000,000: never the best." in trial
    assert "Quantised val_bpb 1.5000 ± 0.0017" in trial
    assert re.search(r"streamed \d\.\d{4} ± 0\.0034 .* final \d\.\d{4} ± 0\.0017", trial)
    assert "quantised ranks 1.5000 ± 0.0020 65.5 K 4.0 s" in trial
    assert "17.000 MB 17,000,000 bytes; limit 16,000,000. int8 with zlib, 18.000 MB before. Gap +0.0123" in trial
    table = client.get(f"{STUDY}/table").json()
    row = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert (row["score"], row["artifact_bytes"]) == (1.5, 17_000_000)
    assert row["infeasible"].startswith("artifact_bytes")
    parameter = client.get(f"{STUDY}/figures/parameters").json()["figures"]["optim.matrix_lr"]
    assert parameter["layout"]["yaxis"]["title"]["text"] == "quantised val_bpb"
    assert "quantised val_bpb" in client.get("/").text


def text_of(page):
    """What a reader sees, in one line."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_a_stopped_trials_value_is_called_streamed(client, writer):
    writer.trial(0, "pruned")
    page = client.get(f"{STUDY}/trials/0").text
    assert "Streamed val_bpb" in page
    assert "no score of the full budget" in page
    assert "Final val_bpb" not in page


def test_a_running_trial_without_points_has_a_page(client, writer):
    writer.trial(0, "running", progress=0.0, points=1, started_at=None)
    assert client.get(f"{STUDY}/trials/0").status_code == 200
    answer = client.get(f"{STUDY}/trials/0/figures").json()
    assert answer["figures"] == {}
    assert "first point" in answer["note"]


def test_a_promotion_has_a_page(client, writer):
    writer.promotion(0, trial=4)
    writer.run("promotion", 0, "running", writer.params(), 0.4, 40, tokens=80_000_000)
    page = client.get(f"{STUDY}/promotions/0").text
    assert "Promotion 0" in page
    assert f"{STUDY}/trials/4" in page
    assert client.get(f"{STUDY}/promotions/0/figures").json()["figures"]


def test_a_planned_promotion_shows_phases_success_samples_and_parameters(client, writer):
    planned(writer, 0, progress=0.3)
    page = client.get(f"{STUDY}/promotions/0").text
    text = text_of(page)
    assert re.search(r"pretrain-1 ▶ running 62% 936 M / 1.5 B 1, warm-up 1%", text)
    assert re.search(r"pretrain-3 … waiting 0% 0 / 500 M 0.5 → 0.05 cosine", text)
    assert re.search(r"instruct instruct … waiting .* by documents keep 0.05", text)
    assert "936 M of 3.12 B tokens · 40 K tokens/s · 16 h 39 min left" in text
    assert re.search(r"active parameters 27,500,000 ± 1% 27,500,548 .* ✓ PASS", text)
    assert "forecast 109.1 by the plan" in text
    assert "… not yet the run goes on" in text
    assert '<span class="prompt">Once &lt;b&gt;upon</span> a time, number 2' in page
    assert page.index("number 2") < page.index("number 1<")
    assert "Parameters and topology" in text and "8f3a1c" in text and "n0→n3" in text
    assert "of which never trained 4,209,666" in text
    assert page.count("number 2") == 1, "samples are not repeated among the events"
    assert "27500548" not in text and "repeat data" not in text, "neither the model nor the plan is dumped"


def test_a_run_of_a_plans_own_values_belongs_to_no_trial(client, writer):
    writer.promotion(0, trial=None)
    writer.run("promotion", 0, "running", writer.params(), 0.4, 40, tokens=80_000_000)
    assert "/trials/None" not in client.get(f"{STUDY}/promotions/0").text
    study = client.get(STUDY).text
    assert "the plan's own values" in study.replace("&#39;", "'") and "/trials/None" not in study
    drawn = client.get(f"{STUDY}/figures/promotions").json()["figures"]["promotions"]
    assert [trace["name"] for trace in drawn["data"]] == ["promotion 0"]


def test_the_success_table_as_json(client, writer):
    planned(writer, 0, "complete", progress=1.0)
    writer.promotion(1, 4)
    writer.run("promotion", 1, "running", writer.params(), 0.4, 40, tokens=80_000_000)
    api = "/api/v1/studies/lr-wd-batch/promotions"
    table = client.get(f"{api}/0/success").json()
    assert table["verdict"] == "PASS"
    assert {row["name"]: row["verdict"] for row in table["rows"]}["val PPL"] == "PASS"
    assert set(table["rows"][0]) == {"name", "wanted", "found", "number", "verdict", "reason", "forecast", "note"}
    assert client.get(f"{api}/1/success").json() == {
        "verdict": "not known", "reason": "the plan names no criteria", "rows": [],
    }  # fmt: skip
    assert client.get(f"{api}/7/success").status_code == 404
    assert client.get("/api/v1/studies/none/promotions/0/success").status_code == 404


def test_the_forecast_of_a_promotion_is_a_figure_and_of_a_trial_none(client, writer):
    planned(writer, 0, progress=0.3)
    planned(writer, 1, progress=0.01)
    writer.trial(0)
    drawn = client.get(f"{STUDY}/promotions/0/figures").json()["figures"]["forecast"]
    assert [trace["name"] for trace in drawn["data"]][1:] == [
        "95 % of measurements", "held-out loss foretold at 30%", "held-out loss",
    ]  # fmt: skip
    assert len(drawn["layout"]["shapes"]) == 3
    assert set(client.get(f"{STUDY}/trials/0/figures").json()["figures"]) == {"run", "throughput"}


def test_a_planned_promotion_without_any_point_has_a_page(client, writer):
    planned(writer, 0, progress=0.0)
    page = text_of(client.get(f"{STUDY}/promotions/0").text)
    assert "pretrain-1 ▶ running 0%" in page
    assert "not yet no validation yet" in page


@pytest.mark.parametrize("path", ["/studies/none", f"{STUDY}/trials/99", f"{STUDY}/promotions/0", "/nothing"])
def test_unknown_addresses_get_a_page_for_people_and_json_for_scripts(client, writer, path):
    page = client.get(path, headers={"Accept": "text/html"})
    assert page.status_code == 404
    assert "Not found" in page.text
    script = client.get(path, headers={"Accept": "application/json"})
    assert script.status_code == 404
    assert script.json()["detail"]


def test_unknown_figures_and_studies_are_404(client, writer):
    assert client.get(f"{STUDY}/figures/pie").status_code == 404
    assert client.get("/studies/none/figures/curves").status_code == 404
    assert client.get("/studies/none/stream").status_code == 404
    assert client.get(f"{STUDY}/workers/1/figures").status_code == 404


def test_the_read_api(client, writer):
    writer.typical()
    writer.promotion(0, trial=4, state="waiting")
    api = "/api/v1/studies/lr-wd-batch"
    summary = client.get(api).json()
    assert summary["counts"] == {"complete": 6, "pruned": 6, "running": 2, "failed": 1, "waiting": 2}
    assert [s["name"] for s in client.get("/api/v1/studies").json()] == ["lr-wd-batch"]
    assert [t["number"] for t in client.get(f"{api}/trials?after=12").json()] == [13, 14]
    trial = client.get(f"{api}/trials/0").json()
    assert len(trial["points"]["step"]) == len(trial["points"]["val_bpb"])
    assert None in trial["points"]["val_bpb"], "a Step has no val_bpb, and JSON has no NaN"
    curves = client.get(f"{api}/curves").json()
    assert len(curves["offsets"]) == len(curves["trials"]) + 1
    assert curves["offsets"][-1] == len(curves["values"])
    assert client.get(f"{api}/promotions").json()[0]["state"] == "waiting"
    assert client.get("/api/v1/workers").json()[0]["id"] == "worker-1"
    for path in ("", "/trials", "/trials/0", "/curves", "/promotions"):
        assert client.get(f"/api/v1/studies/none{path}").status_code == 404


def test_assets_come_from_here_and_are_kept_for_ever(client, writer):
    page = client.get(STUDY).text
    addresses = re.findall(r'(?:href|src|data-plotly)="(/[^"]+\.(?:js|css|svg))"', page)
    assert any("plotly" in address for address in addresses)
    assert not re.findall(r'(?:href|src)="(?:https?:)?//', page), "nothing from elsewhere"
    for address in set(addresses):
        answer = client.get(address)
        assert answer.status_code == 200, address
        assert "immutable" in answer.headers["cache-control"], address
        assert answer.headers.get("content-encoding") == "gzip" or len(answer.content) < 800
    (plotly,) = {address for address in addresses if "plotly" in address}
    plain = client.get(plotly, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == client.get(plotly).content
    assert client.get("/assets/plotly-000000000000.min.js").status_code == 404


def test_pages_are_compressed_and_let_nothing_in_from_elsewhere(client, writer):
    answer = client.get(STUDY)
    assert answer.headers.get("content-encoding") == "gzip"
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_name_is_no_markup(engine):
    Writer(engine, "<b>x").trial(0, "failed", reason="<script>alert(1)</script>")
    with served(app_over(engine)) as url:
        page = httpx.get(f"{url}/studies/%3Cb%3Ex/trials/0", trust_env=False).text
    assert "<b>x" not in page
    assert "<script>alert" not in page


def test_a_trial_lists_the_outcomes_of_its_ladder(client, writer, engine):
    run = writer.trial(0)
    assert "Ladder of budgets" not in client.get(f"{STUDY}/trials/0").text
    with Session(engine) as session:
        place = {"run_id": run, "tokens": 400_000, "step": 50, "seconds": 2.1, "val_loss": 4.0, "val_tokens": 9}
        session.add(OutcomeRow(**place, val_bpb=2.75, val_bpb_stderr=0.003, budget=2.0, branch_seconds=0.8))
        session.commit()
    trial = text_of(client.get(f"{STUDY}/trials/0").text)
    assert re.search(r"2 seconds 2\.7500 ± 0\.0030 400 K 2\.1 s 0\.8 s full \d\.\d{4} ± 0\.0017", trial)


def test_notes_and_the_commit_are_shown_as_text_of_people_and_not_as_markup(client, writer, engine):
    writer.typical()
    with Session(engine) as session, session.begin():
        study = session.scalars(select(StudyRow)).one()
        for trial, text in ((None, "<b>slow</b> disk\nsince noon"), (2, "same seed as 1")):
            session.add(NoteRow(study_id=study.id, trial_number=trial, text=text, created_at=1_800_000_000.0))
        session.execute(update(RunRow).where(RunRow.number == 2).values(git_commit=f"{'0123456789' * 4}-dirty"))
    page = client.get(STUDY).text
    assert "&lt;b&gt;slow&lt;/b&gt; disk\nsince noon" in page
    assert f'<a href="{STUDY}/trials/2">trial 2</a>' in page and "same seed as 1" in page
    trial = client.get(f"{STUDY}/trials/2").text
    assert "same seed as 1" in trial and "since noon" not in trial
    assert ">012345678901</code>" in trial and "changes that were not committed" in trial
    assert 'id="notes-title"' not in client.get(f"{STUDY}/trials/1").text
