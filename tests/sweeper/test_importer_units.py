"""What imported scores and figures count: bits or nats, which parameters, how many devices; and what cannot be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sweeper.errors import SweeperError
from sweeper.importing.mapping import load_mapping
from sweeper.importing.runs import RATES
from sweeper.observations_fits import Fits
from sweeper.observations_read import FitsStore
from sweeper.observations_recipe import ALIASES
from sweeper.observations_speed import clock
from sweeper.results import Results
from tests.sweeper.foreign_runs import contents, log, reasons, some_logs, trials, write_csv, write_logs

NVIDIA_SMI = "|   0  NVIDIA H100 80GB HBM3          On  |   00000000:19:00.0 Off |                    0 |"
HEADER = ["matrix_lr", "batch_tokens", "parameters", "steps", "val_bpb"]


def modded(loss: float = 3.28, steps: int = 3200, *, upto: int | None = None) -> str:
    """A log of modded-nanogpt: nats per token, no hyperparameters."""
    lines = ["import os", 'print0(f"step:{step}/{total} val_loss:{val_loss:.6f} train_time:{ms:.0f}ms")', "=" * 100]
    for step in range(0, (upto or steps) + 1, steps // 4):
        reached = 10.8 + (loss - 10.8) * (step / steps) ** 0.3
        lines.append(f"step:{step}/{steps} val_loss:{reached:.6f} train_time:{step * 42}ms step_avg:42.00ms")
    return "\n".join([*lines, "peak memory allocated: 31000 MiB reserved: 41000 MiB"]) + "\n"


def several(world_size: int, rate: float = 0.02, milliseconds: int = 600) -> str:
    """A parameter-golf log of so many devices, a step in `milliseconds`."""
    text = log(rate).replace("world_size:1 ", f"world_size:{world_size} ")
    text = text.replace("300000ms", f"{milliseconds * 500}ms").replace("600050ms", f"{milliseconds * 1000}ms")
    return f"{NVIDIA_SMI}\n{text}"


def origin(service: Any, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = trials(service)[number].config["import"]
    return found


def fits_of(service: Any) -> Fits:
    return FitsStore(service.engine, Results(service.engine)).fits("other")


@pytest.mark.parametrize("score", [0, -3, -1e-9])
def test_a_score_that_is_not_positive_is_refused_and_does_not_rank_first(bring_in, service, tmp_path, score):
    rows = [[0.01, 65_536, 1e8, 1000, 1.2], [0.02, 65_536, 1e8, 1000, score]]
    report = bring_in(write_csv(tmp_path / "a.csv", HEADER, *rows))
    assert report.stored == {"complete": 1} and reasons(report) == {"a score that is not positive": 1}
    best = Results(service.engine).study("other").best
    assert best is not None and best.val_bpb == 1.2


@pytest.mark.parametrize("column", ["matrix_lr", "trainer.lr", "trainer.LEARNING_RATE"])
@pytest.mark.parametrize("rate", [0, -0.01])
def test_a_rate_that_is_not_positive_is_refused_with_its_path(bring_in, tmp_path, column, rate):
    report = bring_in(write_csv(tmp_path / "a.csv", [column, "val_bpb"], [0.01, 1.2], [0.02, 1.3], [rate, 1.1]))
    assert report.stored == {"complete": 2} and reasons(report) == {"a rate that is not positive": 1}
    assert column in report.skipped[0].detail and f"{rate:g}" in report.skipped[0].detail


def test_refused_rates_are_those_that_laws_read():
    assert set(RATES) == {path.rpartition(".")[2] for path in ALIASES["learning_rate"]}


def test_a_log_with_an_impossible_score_is_refused_and_one_whose_head_has_no_rate_is_not(bring_in, tmp_path):
    texts = [log(0.02), log(0.03, -1.0)]  # both say head_lr:0.0
    report = bring_in(write_logs(tmp_path / "logs", texts))
    assert report.stored == {"complete": 1} and reasons(report) == {"a score that is not positive": 1}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch_tokens": 128}, "batch is read as data.batch_tokens: 128 tokens a step in 2 runs"),
        ({"parameters": 124}, "n is read as parameters: 124 parameters in 2 runs"),
        ({"val_bpb": 33.5}, "bits is read as score: 33.5 bits per byte in 2 runs"),
    ],
)
def test_a_figure_in_a_unit_that_is_hardly_meant_is_named_with_what_to_do(bring_in, tmp_path, changed, said):
    names = ["rate", "batch", "n", "steps", "bits"]
    plausible = dict(zip(HEADER, (0.01, 65_536, 1e8, 1000, 1.2), strict=True))
    first, second = ({**plausible, **changed, "matrix_lr": rate} for rate in (0.01, 0.02))
    table = write_csv(tmp_path / "a.csv", names, list(first.values()), list(second.values()))
    targets = ("optim.matrix_lr", "data.batch_tokens", "parameters", "steps", "score")
    mapping = tuple(f"{name}={target}" for name, target in zip(names, targets, strict=True))
    for dry_run in (True, False):
        report = bring_in(table, mapping=mapping, dry_run=dry_run)
        (told,) = [note for note in report.notes if "hardly meant" in note]
        assert told.startswith(said) and "--map '" in told
    assert report.stored == {"complete": 2}  # it is a warning


def test_plausible_figures_bring_no_warning(bring_in, tmp_path):
    report = bring_in(write_csv(tmp_path / "a.csv", HEADER, [0.01, 1000, 10_000, 5, 30.0]))
    assert not [note for note in report.notes if "hardly" in note]


def test_a_table_of_losses_alone_is_scored_in_nats_and_says_so(bring_in, service, tmp_path):
    table = write_csv(tmp_path / "a.csv", ["matrix_lr", "val_loss"], [0.01, 3.3], [0.02, 3.1])
    report = bring_in(table)
    assert report.score_unit == "nats per token" and any("nats per token" in note for note in report.notes)
    assert [run.score for run in trials(service)] == [3.3, 3.1]
    assert origin(service)["score_unit"] == "nats per token"
    assert bring_in(table, bytes_per_token=4.5).there == 2


def test_bytes_per_token_make_bits_per_byte_of_losses_and_of_nothing_else(bring_in, service, tmp_path):
    bring_in(write_csv(tmp_path / "a.csv", ["matrix_lr", "loss"], [0.01, 3.3]), mapping=("loss=score",),
             bytes_per_token=4.5)  # fmt: skip
    assert trials(service)[0].score == pytest.approx(3.3 / math.log(2) / 4.5)
    assert origin(service)["score_unit"] == "bits per byte"
    bring_in(write_csv(tmp_path / "b.csv", ["matrix_lr", "val_bpb", "val_loss"], [0.03, 1.1, 3.3]), bytes_per_token=9.0)
    assert trials(service)[1].score == 1.1


def test_nats_and_bits_are_not_ranked_together(bring_in, service, tmp_path):
    bits = write_csv(tmp_path / "a.csv", ["matrix_lr", "val_bpb"], [0.01, 1.2], [0.02, 1.3])
    nats = write_csv(tmp_path / "b.csv", ["matrix_lr", "val_loss"], [0.03, 3.2])
    assert reasons(bring_in(bits, nats)) == {"a score in nats per token": 1}
    assert "--bytes-per-token" in bring_in(nats).skipped[0].detail and len(trials(service)) == 2
    assert bring_in(nats, bytes_per_token=4.0).stored == {"complete": 1}


def test_logs_of_modded_nanogpt_are_scored_by_their_loss(bring_in, service, tmp_path):
    texts = [modded(3.28, 3200), modded(3.25, 3600), modded(3.3, 3200, upto=1600)]
    folder = write_logs(tmp_path / "logs", texts)
    report = bring_in(folder, constants=("data.batch_tokens=393216", "parameters=124e6"))
    assert report.stored == {"complete": 2} and reasons(report) == {"no end": 1}
    first = trials(service)[0]
    assert (first.score, first.step, first.tokens, first.seconds) == (3.28, 3200, 3200 * 393_216, 3200 * 0.042)
    assert first.parameters == 124_000_000 and origin(service)["score_unit"] == "nats per token"
    assert len(contents(service)["sweeper_points"]) == 2 * 5
    assert bring_in(folder, bytes_per_token=4.3).there == 2


def test_such_logs_in_bits_per_byte_and_beside_parameter_golfs(bring_in, service, tmp_path):
    folder = write_logs(tmp_path / "logs", [*some_logs(2), modded()])
    mapping = (str(axes_of_golf(tmp_path)),)
    assert reasons(bring_in(folder, mapping=mapping)) == {"a score in nats per token": 1}
    report = bring_in(folder, bytes_per_token=4.3, mapping=mapping)
    assert report.stored == {"complete": 1} and trials(service)[2].score == pytest.approx(3.28 / math.log(2) / 4.3)


def axes_of_golf(folder: Path) -> Path:
    """A mapping with what such logs leave out."""
    file = folder / "map.toml"
    file.write_text('judge = "final"\n[constants]\n"optim.matrix_lr" = 0.02\n"data.batch_tokens" = 393_216\n')
    return file


def test_logs_that_say_nothing_but_losses_still_make_a_study(bring_in, tmp_path):
    report = bring_in(write_logs(tmp_path / "logs", [modded(steps=3200), modded(steps=3600)]))
    assert report.stored == {"complete": 2} and set(report.axes) == {"trainer.steps"}
    assert any("number of parameters" in note and "data.batch_tokens" in note for note in report.notes)


def test_constants_stand_for_what_logs_do_not_print(bring_in, service, tmp_path):
    folder = write_logs(tmp_path / "logs", some_logs(2))
    constants = ("model.num_layers=9", "optim.matrix_lr=0.5", "parameters=1", "device_name=H100", "tokens=7")
    report = bring_in(folder, constants=constants)
    first = trials(service)[0]
    assert first.config["model"]["num_layers"] == 9 and first.device_name == "H100"
    assert first.config["optim"]["matrix_lr"] == 0.01 and first.parameters == 17_059_912  # it prints them itself
    assert any("--set tokens is not taken for logs" in note for note in report.notes)
    assert bring_in(folder).there == 2  # with constants or without they are the same runs


def test_runs_on_one_and_on_eight_devices_have_speeds_of_their_own(bring_in, service, tmp_path):
    texts = [several(n, rate, ms) for n, ms in ((1, 340), (8, 44)) for rate in (0.01, 0.02, 0.03)]
    bring_in(write_logs(tmp_path / "logs", texts), constants=("model.num_layers=9",))
    names = ["NVIDIA H100 80GB HBM3", "8 × NVIDIA H100 80GB HBM3"]
    assert [run.device_name for run in trials(service)] == [names[0]] * 3 + [names[1]] * 3
    assert "devices" not in origin(service) and origin(service, 3)["devices"] == 8
    assert Results(service.engine).run("other", "trial", 3).devices == 8
    store = FitsStore(service.engine, Results(service.engine))
    speeds = {name: law.seconds(9, 524_288).value for name, (_, law) in fits_of(service).step_times.items()}  # type: ignore[union-attr]
    assert speeds == {names[0]: pytest.approx(0.34, rel=1e-3), names[1]: pytest.approx(0.044, rel=1e-3)}
    assert clock(store, fits_of(service), 1.0, "8 × NVIDIA").step_time.seconds(9, 524_288).value == pytest.approx(0.044)


@pytest.mark.parametrize(("given", "stored"), [(None, "unknown"), ("all", "all"), ("matrices", "matrices")])
def test_what_parameters_count_is_stored_as_it_is_said(bring_in, service, tmp_path, given, stored):
    bring_in(write_csv(tmp_path / "a.csv", HEADER, [0.01, 65_536, 1e8, 1000, 1.2]), parameters=given)
    assert origin(service)["parameters_count"] == stored


def test_a_logs_model_params_are_all_weights_unless_somebody_says_otherwise(bring_in, service, tmp_path):
    bring_in(write_logs(tmp_path / "a", some_logs(2)))
    assert origin(service)["parameters_count"] == "all"
    bring_in(write_logs(tmp_path / "b", [log(0.5, batch=131_072)]), parameters="non_embedding")
    assert origin(service, 2)["parameters_count"] == "non_embedding"


def test_runs_without_parameters_do_not_say_what_they_count(bring_in, service, tmp_path):
    bring_in(write_csv(tmp_path / "a.csv", ["matrix_lr", "val_bpb"], [0.01, 1.2]), parameters="all")
    assert "parameters_count" not in origin(service)


def test_an_optimiser_that_nothing_states_is_not_stored(bring_in, service, tmp_path):
    header = ["matrix_lr", "val_bpb", "optimizer"]
    table = write_csv(tmp_path / "a.csv", header, [0.01, 1.2, "adamw"], [0.02, 1.3, "adamw"])
    report = bring_in(table, dry_run=True)
    assert report.proposed == {"optimizer": "optim.matrix_optimizer"}
    bring_in(table)
    assert "matrix_optimizer" not in trials(service)[0].config["optim"]
    assert "optim.matrix_optimizer" not in trials(service)[0].params
    header[-1] = "kind"
    other = write_csv(tmp_path / "b.csv", header, [0.015, 1.2, "adamw"])
    bring_in(other, mapping=("kind=optim.matrix_optimizer",))
    assert trials(service)[2].config["optim"]["matrix_optimizer"] == "adamw"


def test_a_mapping_file_can_say_what_options_do_and_options_go_before_it(tmp_path):
    file = tmp_path / "map.toml"
    file.write_text('parameters = "matrices"\nbytes_per_token = 4.5\n')
    assert (load_mapping([str(file)]).parameters, load_mapping([str(file)]).bytes_per_token) == ("matrices", 4.5)
    assert load_mapping([str(file)], parameters="all", bytes_per_token=3.9).bytes_per_token == 3.9
    with pytest.raises(SweeperError, match="bytes_per_token"):
        load_mapping([], bytes_per_token=-1.0)
    file.write_text('parameters = "some"\n')
    with pytest.raises(SweeperError, match="parameters"):
        load_mapping([str(file)])
