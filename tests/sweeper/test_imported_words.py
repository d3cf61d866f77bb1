"""What is shown of imported studies: the unit of their scores, what their parameters count, and what cannot be run."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from dashboard.routes.scaling import PLOTS
from dashboard.theme import LIGHT
from sweeper import observations_laws
from sweeper.commands import fitting, reading
from sweeper.errors import SweeperError
from sweeper.export import export
from sweeper.observations_fits import Fits
from sweeper.observations_read import FitsStore
from sweeper.observations_switches import PARAMS_WORDS, Asked
from sweeper.promote import promote
from sweeper.protocol import PromoteRequest
from sweeper.results import Results
from sweeper.scores import BITS_PER_BYTE, NATS_PER_TOKEN
from tests.dashboard.conftest import app_over
from tests.sweeper.foreign_runs import log, write_csv, write_logs

COLUMNS = ("lr=optim.matrix_lr", "N=parameters", "D=tokens", "loss=val_loss")
BITS = ("lr=optim.matrix_lr", "N=parameters", "D=tokens", "bpb=score")
SIZES = (1e7, 2e7, 4e7, 8e7, 1.6e8)
UNSAID = "as the runs state them, convention not known"


@pytest.fixture
def storage_url(tmp_path: Path, migrated_file: Path) -> str:
    """SQLite alone: words are made of records, and `test_results` reads these from either database."""
    shutil.copy(migrated_file, tmp_path / "sweeper.db")
    return f"sqlite:///{tmp_path / 'sweeper.db'}"


def loss(n: float, d: float) -> float:
    return 1.7 + 300 / n**0.34 + 900 / d**0.34


def swept(*, rates: int = 5) -> list[list[float]]:
    """[rate, parameters, tokens, loss] of a bowl at each of several sizes and lengths."""
    found = []
    for n in SIZES:
        for d in (1e9, 4e9, 1.6e10):
            for place in range(rates):
                octaves = place - rates // 2 + 0.2
                found.append([0.01 * 2.0 ** (place - rates // 2), n, d, loss(n, d) * (1 + 0.004 * octaves**2)])
    return found


def store_of(service: Any) -> FitsStore:
    return FitsStore(service.engine, Results(service.engine))


def fits_of(service: Any) -> Fits:
    return store_of(service).fits("other")


def table(tmp_path: Path, rows: list[list[float]], column: str = "loss") -> Path:
    return write_csv(tmp_path / "runs.csv", ["lr", "N", "D", column], *rows)


EVERYTHING = (
    *("", "/scaling", "/scaling/laws", "/scaling/loss.csv", "/trials/0", "/trials/0/figures"),
    *(f"/figures/{name}" for name in ("curves", "history", "parameters", "parallel")),
    *(f"/scaling/figures/{key}" for key in PLOTS),
)


def pages(service: Any, *names: str) -> dict[str, str]:
    """What the dashboard shows of the study by address, and as `index` the list of studies."""
    with TestClient(app_over(service.engine), base_url="http://127.0.0.1") as client:
        answers = {name: client.get(f"/studies/other{name}") for name in names}
        answers["index"] = client.get("/")
    assert {name for name, answer in answers.items() if answer.status_code != 200} == set()
    return {name: answer.text for name, answer in answers.items()}


def printed(what: Any, settings: Any, *args: Any, **wishes: Any) -> str:
    console = Console(width=300, file=io.StringIO())
    what(settings, *args, console, **wishes)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # it is the one above
    return text


def test_a_study_in_nats_says_so_on_every_page_and_never_speaks_of_bits(bring_in, service, tmp_path):
    bring_in(table(tmp_path, swept()), mapping=COLUMNS, constants=("data.batch_tokens=131072",))
    shown = pages(service, *EVERYTHING)
    for name, text in shown.items():
        text = re.sub(r'data-metric="val_bpb"|streamed_val_bpb', "", text)  # names, not words
        assert "bits per byte" not in text and "val_bpb" not in text, name
    assert "<small> nats per token" in shown[""] and "Final val_loss, nats per token of complete" in shown[""]
    assert "nats per token" in shown["/trials/0"] and "final val_loss, nats per token" in shown["index"]
    titles = [json.loads(shown[f"/scaling/figures/{key}"])["figures"][key] for key in ("loss", "budgets")]
    for figure in titles:
        assert figure["layout"]["yaxis"]["title"]["text"] == "val_loss (nats per token)"
    assert all(line.endswith(",val_loss (nats per token)") for line in shown["/scaling/loss.csv"].splitlines()[1:])
    assert re.search(r"would reach .* nats per token", shown["/scaling/figures/loss"])
    history = json.loads(shown["/figures/history"])["figures"]["history"]
    assert history["layout"]["yaxis"]["title"]["text"] == "final val_loss, nats per token"


def test_a_study_in_nats_says_so_in_the_terminal_and_in_files(bring_in, service, settings, tmp_path):
    bring_in(table(tmp_path, swept()), mapping=COLUMNS, constants=("data.batch_tokens=131072",))
    status = printed(reading.status, settings, "other")
    assert re.search(r"final val_loss \d\.\d{4} nats per token matrix_lr", status)
    fit = printed(fitting.fit, settings, "other", Asked(), as_json=False)
    order = fitting.Order(study="other", tokens="4x", hours=None, gpu=None, as_json=False)
    plan = printed(fitting.plan, settings, order)
    assert "predicted val_loss, nats per token, 95 %" in plan
    assert re.search(r"loss +floor .* nats per token", fit) and "judges by, nats per token" in fit
    assert all("bits per byte" not in text and "val_bpb" not in text for text in (status, fit, plan))
    assert observations_laws.as_json(fits_of(service))["score_unit"] == "nats per token"
    (trials, *_) = export(service.engine, "other", "csv", tmp_path / "out")
    assert {row["score_unit"] for row in csv.DictReader(io.StringIO(trials.read_text()))} == {"nats per token"}


def test_the_unit_is_that_of_a_run_with_a_score_and_bits_where_nothing_is_said(bring_in, service, tmp_path):
    bring_in(table(tmp_path, [[0.1, 1e7, 1e9, float("nan")], *swept()]), mapping=COLUMNS)
    assert Results(service.engine).study("other").unit == NATS_PER_TOKEN
    assert fits_of(service).trials.runs.unit == "nats" and fits_of(service).study.unit == NATS_PER_TOKEN


def test_a_study_in_bits_is_called_as_before(bring_in, service, tmp_path):
    bring_in(table(tmp_path, swept(), "bpb"), mapping=BITS)
    summary = Results(service.engine).study("other")
    assert summary.unit == BITS_PER_BYTE and summary.unit.heading(summary.judge) == "final val_bpb"
    assert fits_of(service).trials.runs.unit == "bpb"
    assert "nats per token" not in pages(service, "/scaling/laws")["/scaling/laws"]


@pytest.mark.parametrize("stated", ["all", "non_embedding"])
def test_a_stated_convention_is_the_default_and_the_only_one(bring_in, service, tmp_path, stated):
    bring_in(table(tmp_path, swept()), mapping=COLUMNS, parameters=stated)
    store = store_of(service)
    fits = store.fits("other")
    assert fits.study.switches.params == stated and len(fits.trials.runs) == 75
    assert fits.trials.runs.params_convention == PARAMS_WORDS[stated]
    other = next(name for name in PARAMS_WORDS if name != stated)
    none = store.fits("other", store.switches("other", Asked(params=other)))
    words = "all weights" if stated == "all" else "those without embedding, head and hash tables"
    assert len(none.trials.runs) == 0
    assert observations_laws.left_out(none) == [(f"its parameters are known as {words} alone", 75)]


def test_a_convention_that_no_run_states_cannot_be_chosen_on_the_page(bring_in, service, tmp_path):
    bring_in(table(tmp_path, swept(rates=1)), mapping=COLUMNS, parameters="all")
    page = pages(service, "/scaling")["/scaling"]
    options = re.findall(r'<option value="(\w+)"( selected)?( disabled)?>([^<]*)', page)
    shown = {value: (bool(selected), bool(disabled)) for value, selected, disabled, _ in options}
    assert [shown[name] for name in PARAMS_WORDS] == [(name == "all", name != "all") for name in PARAMS_WORDS]


@pytest.mark.parametrize("asked", [None, "all"])
def test_an_unknown_convention_is_said_whatever_is_asked_for(bring_in, service, tmp_path, asked):
    bring_in(table(tmp_path, swept()), mapping=COLUMNS)
    store = store_of(service)
    fits = store.fits("other", store.switches("other", Asked(params=asked)))
    assert len(fits.trials.runs) == 75 and fits.trials.runs.params_convention == UNSAID
    assert observations_laws.as_json(fits)["parameters"] == UNSAID
    figure = PLOTS["budgets"][1](fits, LIGHT).figure
    assert figure is not None and UNSAID in figure["layout"]["xaxis"]["title"]["text"]


def test_the_page_says_that_the_convention_is_not_known_and_offers_none(bring_in, service, tmp_path):
    bring_in(table(tmp_path, swept(rates=1)), mapping=COLUMNS)
    page = pages(service, "/scaling")["/scaling"]
    assert page.count(UNSAID) == 1 and PARAMS_WORDS["all"] not in re.findall(r"<option[^>]*>([^<]*)", page)


def test_runs_of_known_and_unknown_convention_together_say_how_many(bring_in, service, tmp_path):
    rows = swept()
    bring_in(write_csv(tmp_path / "a.csv", ["lr", "N", "D", "loss"], *rows[:40]), mapping=COLUMNS, parameters="all")
    bring_in(write_csv(tmp_path / "b.csv", ["lr", "N", "D", "loss"], *rows[40:]), mapping=COLUMNS)
    fits = fits_of(service)
    assert fits.study.switches.params == "all"
    assert fits.trials.runs.params_convention == f"all weights; of 35 of 75 runs {UNSAID}"


def test_what_is_missing_of_imported_runs_is_to_be_imported(bring_in, service, tmp_path):
    bring_in(table(tmp_path, swept(rates=1)), mapping=COLUMNS)
    shown = pages(service, *(name for name in EVERYTHING if not name.endswith(".csv")))
    texts = {key: json.loads(shown[f"/scaling/figures/{key}"])["note"] for key in PLOTS}
    assert "sweeper import FILE --study other" in texts["batch"] and "data.batch_tokens" in texts["batch"]
    assert "sweeper import FILE --study other" in texts["throughput"]
    for key, text in texts.items():
        assert not re.search(r"sweeper (launch|bench|promote|enqueue)", text), key


def test_what_is_not_known_of_a_run_is_left_out_and_not_called_nan(bring_in, service, tmp_path):
    bring_in(table(tmp_path, swept()), mapping=COLUMNS)
    shown = pages(service, *EVERYTHING)
    assert [name for name, text in shown.items() if re.search(r"\bnan\b", text)] == []
    assert re.search(r"At the longest horizon \(\d+ M parameters, 16 B tokens\)", shown["/scaling/figures/bowls"])


def test_a_shared_curvature_has_no_interval_of_no_width(bring_in, service, tmp_path):
    rows = [[*row[:3], row[3] * (1 + 1e-4 * (place % 4))] for place, row in enumerate(swept(rates=3))]
    bring_in(table(tmp_path, rows), mapping=COLUMNS)
    fits = fits_of(service)
    assert sum(bool(cell.optimum.at) and "shared" in cell.optimum.interval_method for cell in fits.cells) > 3
    says = PLOTS["bowls"][1](fits, LIGHT).says
    assert re.search(r"% of the score \(one curvature, shared by \d+ cells, so without an interval\)", says)


def _with_seconds(tmp_path: Path, devices: tuple[str, ...], budget: str = "") -> tuple[Path, tuple[str, ...]]:
    rows = []
    for flops in (1e18, 4e18, 1.6e19):
        best = 0.036 * flops**0.5
        for place in range(7):
            n = best * 2.0 ** (0.7 * (place - 3) + 0.1)
            d = flops / 6 / n
            seconds = 600 if budget else 60 * 2.0 ** (0.4 * place)
            rows.append([n, d, seconds, devices[place % len(devices)], loss(n, d)])
    path = write_csv(tmp_path / "timed.csv", ["N", "D", "took", "gpu", "loss"], *rows)
    mapping = ("N=parameters", "D=tokens", "took=seconds", "gpu=device_name", "loss=val_loss")
    return path, mapping


def test_seconds_that_runs_took_are_no_budget_and_flops_are(bring_in, service, tmp_path):
    path, mapping = _with_seconds(tmp_path, ("A100",))
    bring_in(path, mapping=mapping)
    fits = fits_of(service)
    assert fits.budget_rows[0] == "FLOPs" and not fits.study.timed
    law = fits.frontier.law
    assert law is not None and law.exponents["budget"].value == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("devices", "unit"), [(("A100",), "seconds"), (("A100", "H100"), "FLOPs")])
def test_seconds_that_runs_were_given_are_a_budget_on_one_device(bring_in, service, tmp_path, devices, unit):
    path, mapping = _with_seconds(tmp_path, devices, budget="600")
    bring_in(path, mapping=mapping, constants=("budget.seconds=600",))
    fits = fits_of(service)
    assert fits.study.timed and fits.budget_rows[0] == unit


def test_logs_that_end_by_the_clock_are_timed(bring_in, service, tmp_path):
    bring_in(write_logs(tmp_path / "logs", [log(0.02), log(0.03)]))
    assert fits_of(service).study.timed and fits_of(service).study.unit == BITS_PER_BYTE


def test_runs_without_a_rate_are_not_promoted_and_it_says_why(bring_in, service, tmp_path):
    mapping = ("N=parameters", "D=tokens", "loss=val_loss")
    bring_in(write_csv(tmp_path / "a.csv", ["N", "D", "loss"], *(row[1:] for row in swept(rates=1))), mapping=mapping)
    with pytest.raises(SweeperError, match=r"do not state their learning rate.*--map COLUMN=optim.matrix_lr"):
        promote(service, "other", PromoteRequest(plan_only=True))


def test_a_run_of_no_steps_that_states_tokens_is_fitted_and_cannot_be_lengthened(bring_in, service, tmp_path):
    rows = [[rate, 1e8, 1e9, 0, 50.0, 3 + rate] for rate in (0.01, 0.02, 0.04)]
    header = ["lr", "N", "D", "steps", "seconds", "loss"]
    bring_in(write_csv(tmp_path / "a.csv", header, *rows), mapping=COLUMNS)
    fits = fits_of(service)
    assert fits.trials.runs.tokens.tolist() == [1e9] * 3 and fits.trials.seconds.tolist() == [50.0] * 3
    with pytest.raises(SweeperError, match=r"trial 0 does not say its steps.*--map COLUMN=steps"):
        promote(service, "other", PromoteRequest(plan_only=True))
    assert '<p class="hint">1 B tokens</p>' in pages(service, "/trials/0")["/trials/0"]


def test_a_longer_run_of_unknown_seconds_has_no_time(bring_in, service, tmp_path):
    rows = [[rate, 1e8, 1000, 3 + rate] for rate in (0.01, 0.02, 0.04)]
    mapping = ("lr=optim.matrix_lr", "N=parameters", "loss=val_loss")
    table = write_csv(tmp_path / "a.csv", ["lr", "N", "steps", "loss"], *rows)
    bring_in(table, mapping=mapping, constants=("data.batch_tokens=131072",))
    made = promote(service, "other", PromoteRequest(plan_only=True))
    assert (made.seconds, made.tokens_per_second, made.unit) == (None, None, NATS_PER_TOKEN)
