"""Tables of sizes, losses and compute: what is stated stays exact, what follows follows, and laws need no more."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from dashboard.routes.scaling import PLOTS
from dashboard.theme import LIGHT
from sweeper import observations_laws
from sweeper.errors import SweeperError
from sweeper.importing import figures
from sweeper.observations_fits import Fits
from sweeper.observations_plan import plan
from sweeper.observations_read import FitsStore
from sweeper.results import Results
from tests.dashboard.serve import app_over
from tests.sweeper.foreign_runs import reasons, trials, write_csv

COLUMNS = ("N=parameters", "D=tokens", "loss=val_loss")
FLOOR, ALPHA, BETA = 1.7, 0.34, 0.34


def loss(n: float, d: float) -> float:
    return FLOOR + 300 * n**-ALPHA + 900 * d**-BETA


def points(noise: float = 0.001) -> list[tuple[float, float, float]]:
    """Parameters, tokens and loss at five budgets of compute, seven sizes each; none a whole number."""
    random = np.random.default_rng(0)
    made = []
    for flops in 1e18 * 4.0 ** np.arange(5):
        for off in range(-3, 4):
            n = 0.3 * flops**0.5 * 2.0**off
            d = flops / 6 / n
            made.append((n, d, loss(n, d) * float(np.exp(noise * random.standard_normal()))))
    return made


def fits_of(engine: Engine) -> Fits:
    return FitsStore(engine, Results(engine)).fits("other")


def test_the_stated_batch_and_tokens_stay_as_they_are_stated(bring_in, service, tmp_path):
    stated = [1_986_929_514.7, 523_000_000.2, 77_777_777.5]
    rows = [[0.01 * (place + 1), tokens, 524_288, 1e8, 1.2] for place, tokens in enumerate(stated)]
    header = ["matrix_lr", "tokens", "batch_tokens", "parameters", "val_bpb"]
    bring_in(write_csv(tmp_path / "runs.csv", header, *rows))
    runs = trials(service)
    assert [run.tokens for run in runs] == [1_986_929_515, 523_000_000, 77_777_778]
    assert [run.step for run in runs] == [3790, 998, 148]  # the nearest whole numbers
    assert {run.config["data"]["batch_tokens"] for run in runs} == {524_288}
    assert fits_of(service.engine).trials.runs.tokens.tolist() == [1_986_929_515.0, 523_000_000.0, 77_777_778.0]


def test_sizes_and_losses_alone_make_a_study_with_laws_of_loss_and_of_size(bring_in, service, tmp_path):
    table = write_csv(tmp_path / "points.csv", ["N", "D", "loss"], *points())
    report = bring_in(table, mapping=COLUMNS)
    assert report.stored == {"complete": 35}
    assert set(report.axes) == {"trainer.parameters", "trainer.tokens"}
    assert any("no laws of rate" in note for note in report.notes)
    assert bring_in(table, mapping=COLUMNS).there == 35

    fits = fits_of(service.engine)
    assert fits.trials.sizes == "35 scores of 35 trials"
    law = fits.loss_law
    assert law is not None and law.floor is not None and law.floor.low <= FLOOR <= law.floor.high
    assert law.exponents["n_params"].value == pytest.approx(ALPHA, abs=0.03)
    assert fits.frontier.law is not None and fits.frontier.law.exponents["budget"].value == pytest.approx(0.5, abs=0.05)
    reason = {(line.law, line.quantity): line.reason for line in observations_laws.lines(fits)}
    assert reason["learning rate", "law over cells"] == reason["decay", "tau"] == "no run states a rate"
    assert reason["batch", "best batch"] == "no run states its batch"
    with pytest.raises(SweeperError, match="no run of study other states its learning_rate"):
        plan(fits, tokens=1e12)


def test_the_pages_of_such_a_study_open_and_every_figure_is_drawn_or_says_why_not(bring_in, service, tmp_path):
    bring_in(write_csv(tmp_path / "points.csv", ["N", "D", "loss"], *points()), mapping=COLUMNS)
    fits = fits_of(service.engine)
    cards = {key: draw(fits, LIGHT) for key, (_, draw) in PLOTS.items()}
    assert {key for key, card in cards.items() if card.figure is not None} >= {"loss", "budgets", "frontier"}
    assert all(card.empty for card in cards.values() if card.figure is None)
    with TestClient(app_over(service.engine), base_url="http://127.0.0.1") as client:
        for page in ("", "/scaling", "/scaling/laws", "/trials/0"):
            assert client.get(f"/studies/other{page}").status_code == 200


def test_rates_without_a_batch_have_laws_of_size_and_tokens(bring_in, service, tmp_path):
    def best(n: float, d: float) -> float:
        return 9.5 * n**-0.42 * (d / 1e6) ** -0.07

    rows = [
        [n, d, rate, loss(n, d) * (1 + 0.006 * np.log2(rate / best(n, d)) ** 2 + 1e-4 * (place % 3))]
        for n in (1e7, 4e7, 1.6e8) for d in (1e9, 4e9, 1.6e10)
        for place, rate in enumerate(best(n, d) * 2.0 ** np.arange(-1.7, 2))
    ]  # fmt: skip
    bring_in(write_csv(tmp_path / "a.csv", ["N", "D", "lr", "loss"], *rows), mapping=(*COLUMNS, "lr=optim.matrix_lr"))
    law = fits_of(service.engine).rate_law
    assert law.not_identified is None and set(law.exponents) == {"n_params", "tokens"}  # type: ignore[attr-defined]


def test_rows_without_a_rate_are_left_out_where_others_have_one(bring_in, service, tmp_path):
    header = ["N", "D", "trainer.kind", "lr", "batch_tokens", "val_bpb"]
    rows = [[1e8, 1e9, "ab"[n % 2], 0.01 * n or "", 65_536, 1.2 + n] for n in range(4)]
    table = write_csv(tmp_path / "a.csv", header, *rows)
    bring_in(table, mapping=("N=parameters", "D=tokens", "lr=trainer.learning_rate"))
    assert len(trials(service)) == 3  # a row without a rate has no value on its axis
    with service.write() as session:
        run = session.merge(trials(service)[0])
        run.params = {key: value for key, value in run.params.items() if key != "trainer.learning_rate"}
        run.config = {key: value for key, value in run.config.items() if key != "trainer"}
    left = [(one.number, one.reason) for one in fits_of(service.engine).trials.excluded]
    assert left == [(0, "its learning rate is not known")]


def test_compute_gives_what_is_missing_and_stated_tokens_go_before_it(bring_in, service, tmp_path):
    rows = [[6e18, 1e8, "", 3.0], [6e18, "", 2e10, 2.9], [6e18, 1e8, 1e10, 3.1], [6e18, 1e8, 5e9, 3.2]]
    report = bring_in(
        write_csv(tmp_path / "a.csv", ["Training FLOP", "N", "D", "loss"], *rows),
        mapping=(*COLUMNS, "Training FLOP=flops"),
    )
    assert report.stored == {"complete": 4}
    found = [(run.parameters, run.tokens) for run in trials(service)]
    assert found == [(10**8, 10**10), (5 * 10**7, 2 * 10**10), (10**8, 10**10), (10**8, 5 * 10**9)]
    (told,) = [note for note in report.notes if "flops are 6" in note]
    assert "in all but 1 rows" in told and "row 4: 6e+18 against 3e+18" in told


def test_a_batch_that_contradicts_steps_and_tokens_is_reported(bring_in, tmp_path):
    header = ["matrix_lr", "tokens", "steps", "batch_tokens", "val_bpb"]
    rows = [[0.01, 1e9, 1000, 1024, 1.2], [0.02, 1.024e6, 1000, 1024, 1.2]]
    report = bring_in(write_csv(tmp_path / "a.csv", header, *rows))
    (told,) = [note for note in report.notes if "steps × data.batch_tokens" in note]
    assert "row 1: 1e+09 against 1.024e+06" in told


@pytest.mark.parametrize(
    ("header", "proposed"),
    [
        (["N", "D", "loss"], {"N": "parameters", "D": "tokens", "loss": "val_loss"}),
        (
            ["Model Size", "Training Tokens", "Training FLOP", "loss"],
            {
                "Model Size": "parameters", "Training Tokens": "tokens", "Training FLOP": "flops", "loss": "val_loss",
            },
        ),
        (
            ["", "lr", "bs", "N", "D", "h", "ti", "smooth loss", "loss"],
            {
                "lr": "optim.matrix_lr", "bs": "data.batch_tokens*SEQ_LEN", "N": "parameters", "D": "tokens",
                "smooth loss": "val_loss",
            },
        ),
        (["C", "params", "final_loss"], {"C": "flops", "params": "parameters", "final_loss": "val_loss"}),
        (["flops", "params (M)"], {"flops": "flops", "params (M)": "parameters*1e6"}),
        (
            ["config.peak_lr", "config.wd", "batch_size (seqs)", "num_train_steps"],
            {
                "config.peak_lr": "optim.matrix_lr", "config.wd": "optim.matrix_weight_decay",
                "batch_size (seqs)": "data.batch_tokens*SEQ_LEN", "num_train_steps": "steps",
            },
        ),
        (
            ["weight_decay", "train_batch_size"],
            {"weight_decay": "optim.matrix_weight_decay", "train_batch_size": "data.batch_tokens*SEQ_LEN"},
        ),
        (["n", "d", "c", "Flop/s"], {}),  # anything
    ],
)  # fmt: skip
def test_a_dry_run_proposes_what_usual_columns_are(bring_in, tmp_path, header, proposed):
    report = bring_in(write_csv(tmp_path / "a.csv", header, [1] * len(header)), dry_run=True)
    assert report.proposed == proposed


def test_what_is_known_already_is_not_proposed_again(bring_in, tmp_path):
    report = bring_in(write_csv(tmp_path / "a.csv", ["tokens", "val_loss", "D", "loss"], [1, 2, 3, 4]), dry_run=True)
    assert report.proposed == {} and report.used == {"tokens": "tokens", "val_loss": "val_loss"}
    assert json.loads(json.dumps(report.plain()))["score_unit"] == "nats per token"


SIZE = st.floats(1e4, 1e13)


@given(n=SIZE, d=SIZE, gap=st.sampled_from(["parameters", "tokens", "flops"]))
def test_any_two_of_parameters_tokens_and_compute_give_the_third(n, d, gap):
    whole = {"parameters": n, "tokens": d, "flops": 6 * n * d}
    given_two = {name: value for name, value in whole.items() if name != gap}
    found = dict(given_two)
    assert figures.complete({}, found) == []
    assert {name: found[name] for name in given_two} == given_two
    if gap != "flops":
        assert found[gap] == pytest.approx(whole[gap], rel=1e-12)


@given(tokens=st.floats(1.0, 1e13), batch=st.integers(1, 2**24))
def test_stated_tokens_and_batch_are_never_changed_by_rounded_steps(tokens, batch):
    found = {"tokens": tokens}
    assert figures.complete({"data.batch_tokens": batch}, found) == []
    assert found["tokens"] == tokens and found["steps"] == pytest.approx(max(1.0, tokens / batch))


def test_a_table_without_sizes_or_hyperparameters_still_says_what_to_map(bring_in, tmp_path):
    table = write_csv(tmp_path / "a.csv", ["lr", "val_bpb"], [0.1, 1.2])
    with pytest.raises(SweeperError, match=r"such as --map lr=optim\.matrix_lr"):
        bring_in(table)
    assert reasons(bring_in(write_csv(tmp_path / "b.csv", ["lr"], [0.1]))) == {"a missing column": 1}
