"""Speeds by device and shape: measured by runs and by `sweeper bench`, used by plans and forecasts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper import control, devices, promote, reaper, storage, throughput
from sweeper.commands import forecasting
from sweeper.protocol import Enqueue, PromoteRequest
from sweeper.service import Service
from sweeper.settings import Settings
from sweeper.shape import Shape, configs, shape_of
from sweeper.tables import ThroughputRow
from sweeper.throughput import Throughput
from tests.sweeper import talk
from tests.sweeper.conftest import Clock
from tests.sweeper.installation import Installation

SMALL = Shape(
    num_layers=1,
    model_dim=512,
    num_heads=8,
    num_kv_heads=4,
    mlp_mult=2,
    vocab_size=1024,
    tie_embeddings=True,
    seq_len=1024,
    batch_tokens=1024,
)
DEEP = configs(control.parse_spec(talk.SPEC)).keys() - {SMALL}
VALUES: dict[str, Any] = {"optim.matrix_lr": 0.0123, "model.num_layers": 1}


def measured(shape: Shape, speed: float, device_name: str = "GPU", **more: Any) -> Throughput:
    values = {"seconds": 5.0, "setup_seconds": 2.0, "peak_memory_bytes": 7, "source": "bench", "measured_at": 1.0}
    return Throughput(device_name=device_name, shape=shape, tokens_per_second=speed, **{**values, **more})


def known(service: Service, device_name: str = "test processor") -> dict[Shape, Throughput]:
    with service.read() as session:
        return throughput.known(session, device_name)


def keep(service: Service, found: Throughput) -> None:
    with service.write() as session:
        throughput.store(session, found)


@pytest.mark.usefixtures("study")
def test_finished_runs_leave_their_speed_and_a_later_one_of_the_shape_replaces_it(service: Service) -> None:
    for seconds in (2.0, 4.0):
        control.enqueue(service, "tiny", Enqueue(params=VALUES))
        ending = talk.end() | {"seconds": seconds, "peak_memory_bytes": 1000}
        talk.say(service, talk.take(service), talk.start(), talk.outcome(3.0) | {"seconds": seconds}, ending)
        (found,) = known(service).values()
        assert (found.shape, found.source, found.setup_seconds) == (SMALL, "trial", 0.1)
        assert (found.tokens_per_second, found.peak_memory_bytes) == (10_240 / seconds, 1000)
    assert talk.count(service, ThroughputRow) == 1


@pytest.mark.parametrize(
    ("said", "count"),
    [
        (talk.end("diverged"), 1),
        (talk.end("diverged") | {"step": 9}, 0),  # too short to have a speed
        (talk.failure("died"), 0),
    ],
)
@pytest.mark.usefixtures("study")
def test_how_else_runs_end(service: Service, said: dict[str, Any], count: int) -> None:
    talk.say(service, talk.take(service), talk.start(), talk.step(0.5), said)
    assert talk.count(service, ThroughputRow) == count


@pytest.mark.usefixtures("study")
def test_a_resumed_promotion_is_measured_by_its_own_part(service: Service, clock: Clock) -> None:
    talk.say(service, talk.take(service), *talk.whole(2.5))
    promote.promote(service, "tiny", PromoteRequest())
    talk.say(service, talk.take(service), talk.start(), talk.step(0.1))
    clock.advance(61)
    reaper.sweep(service)
    grant = talk.take(service, "w2")
    start = talk.start() | {"resumed_step": 100, "device_name": "another"}
    first = talk.step(1.0) | {"step": 101, "tokens": 101_000, "seconds": 500.0}
    last = {"step": 201, "tokens": 201_000, "seconds": 550.0}
    talk.say(service, grant, start, first, talk.outcome(2.4) | last, talk.end() | last)
    (found,) = known(service, "another").values()
    assert (found.tokens_per_second, found.source) == (2000.0, "promotion")


def test_a_processor_is_known_with_and_without_its_threads(service: Service) -> None:
    keep(service, measured(SMALL, 1.0, "Chip 100%_, 2 threads"))
    keep(service, measured(SMALL, 2.0, "Chip 100%_, 8 threads", measured_at=2.0))
    keep(service, measured(SMALL, 3.0, "GPU", devices=8))
    assert [found.tokens_per_second for found in known(service, "Chip 100%_").values()] == [2.0], "the last one"
    assert [found.tokens_per_second for found in known(service, "Chip 100%_, 2 threads").values()] == [1.0]
    assert known(service, "Chip 10") == known(service, "GPU") == {}


@pytest.mark.usefixtures("study")
def test_a_plan_takes_the_speed_of_the_device_that_is_to_run_it(service: Service) -> None:
    control.enqueue(service, "tiny", Enqueue(params=VALUES))
    talk.say(service, talk.take(service), *talk.whole(2.5))

    def plan(device_name: str) -> tuple[float, str]:
        made = promote.promote(service, "tiny", PromoteRequest(device_name=device_name, plan_only=True))
        assert made.seconds == made.tokens / made.tokens_per_second
        return made.tokens_per_second, made.notes[2]

    speed, note = plan("")
    assert speed == 5120
    assert "the last trial of this shape had on test processor" in note
    speed, note = plan("GPU")
    assert speed == 5120
    assert "the trial's measured speed on test processor" in note
    assert "Nothing is known of this shape on GPU: `sweeper bench --study tiny` measures it" in note
    keep(service, measured(SMALL, 1e6))
    speed, note = plan("GPU")
    assert speed == 1e6
    assert "`sweeper bench` had on GPU" in note


def test_a_study_has_one_config_for_each_shape() -> None:
    axes = {
        "optim.matrix_lr": {"log": [0.005, 0.1]},
        "data.batch_tokens": {"choice": [2048, 4096]},
        "model.model_dim": {"int": [128, 256], "step": 128, "tie": {"model.num_heads": 0.03125}},
    }
    base = {"model": {"num_kv_heads": 2}, "data": {"seq_len": 128}}
    made = configs(control.parse_spec({**talk.SPEC, "space": axes, "base": base}))
    assert [(shape.batch_tokens, shape.model_dim, shape.num_heads) for shape in made] == [
        (2048, 128, 4), (2048, 256, 8), (4096, 128, 4), (4096, 256, 8),
    ]  # fmt: skip
    assert all(shape_of(config) == shape for shape, config in made.items())
    assert {config["optim"]["matrix_lr"] for config in made.values()} == {0.005}
    assert next(iter(made)).words(list(made)) == "width 128, num_heads 4, batch 2,048"


def forecast(speeds: dict[Shape, float], trials: int = 8, **changes: Any) -> list[str]:
    spec = control.parse_spec({**talk.SPEC, **changes})
    return forecasting.lines(spec, trials, 2, {shape: measured(shape, speed) for shape, speed in speeds.items()})


def test_a_forecast_holds_only_what_is_known() -> None:
    two = sorted(DEEP, key=lambda shape: shape.num_layers)[0]
    wallclock = {"budget": {"seconds": 60.0, "rungs": [0.3]}}
    assert forecast({}) == ["forecast: 8 × 10.2K tokens on 2 workers"]
    assert forecast({SMALL: 1.0}, trials=0) == []
    (total,) = forecast({}, **wallclock)
    assert total == (
        "forecast: 8 × 1m00s of training on 2 workers, about 4m00s and validation; trials that are pruned take less"
    )
    total, spread = forecast({SMALL: 1000.0, two: 500.0}, **wallclock)
    assert "about 4m08s and validation, 2.0 s of set-up a trial included" in total
    assert spread == (
        "a trial sees 30K tokens (2 layers) to 60K tokens (1 layer), as measured on GPU for 2 of 3 shapes"
    )
    total, spread = forecast({SMALL: 1024.0, two: 512.0}, pruner={"type": "none"})
    assert total.endswith("on 2 workers, about 1m08s and validation, 2.0 s of set-up a trial included")
    assert spread.startswith("a trial takes 20s (2 layers) to 10s (1 layer)")


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.close()


def stored(settings: Settings, device_name: str) -> dict[Shape, Throughput]:
    engine = storage.open_engine(settings.storage)
    with storage.read(engine) as session:
        found = throughput.known(session, device_name)
    engine.dispose()
    return found


def test_bench_measures_each_shape_prints_and_keeps_it(installation: Installation) -> None:
    result = installation.command("bench", "--study", installation.study_file(steps=20), "--device", "cpu", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads(result.stdout.splitlines()[-1])
    assert [row["num_layers"] for row in rows] == [2, 3, 4]
    assert {row["tokens_per_second"] for row in rows} == {1024 / 0.01}, "the fake's steps take 10 ms"
    assert "3 shapes of toy, 3 s of training each, on cpu" in result.stdout
    assert "102,400" in result.stdout
    found = stored(installation.settings, "fake")
    assert {shape.num_layers: row.source for shape, row in found.items()} == dict.fromkeys((2, 3, 4), "bench")


def test_a_shape_that_cannot_run_is_said_and_the_others_are_measured(tmp_path: Path) -> None:
    installation = Installation(tmp_path, crash_once=tmp_path / "crashed")
    try:
        result = installation.command("bench", "--study", installation.study_file(steps=20), "--device", "cpu")
    finally:
        installation.close()
    assert result.returncode == 1
    assert "[1/3] 2 layers: not measured: died: the trainer exited with code 3" in result.stdout
    assert [shape.num_layers for shape in stored(installation.settings, "fake")] == [3, 4]


def test_the_true_trainer_is_measured_under_the_name_that_forecasts_look_for(installation: Installation) -> None:
    file = Path(installation.folder, "small.toml")
    file.write_text(
        'trials = 2\nbudget = { seconds = 60 }\n[space]\n"model.num_layers" = { int = [1, 2] }\n'
        "[base.model]\nmodel_dim = 64\nnum_heads = 2\nnum_kv_heads = 1\n[base.data]\nseq_len = 64\nbatch_tokens = 256\n"
    )
    del installation.environment["SWEEPER_TRAINER"]
    installation.environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    result = installation.command("bench", "--study", file, "--device", "cpu", "--seconds", "0.2")
    assert result.returncode == 0, result.stdout + result.stderr
    found = stored(installation.settings, devices.describe("cpu"))
    assert {shape.num_layers for shape in found} == {1, 2}
    assert all(row.tokens_per_second > 100 and 0.2 <= row.seconds < 5 for row in found.values())


def test_options_that_cost_time_tell_shapes_apart_and_initial_values_do_not():
    plain = shape_of({"model": {"num_layers": 2}})
    assert plain.options == ""
    assert shape_of({"model": {"num_layers": 2, "embed_init": "overtone", "qk_gain_init": 1.0}}) == plain
    smeared = shape_of({"model": {"num_layers": 2, "smear_gate": True, "rope_dims": 32}})
    assert smeared.options == "rope_dims 32, smear_gate True" and smeared != plain
    assert smeared.words([plain, smeared]) == "rope_dims 32, smear_gate True"


def test_a_helix_has_shapes_of_its_own() -> None:
    def told(seed: int = 42, **values: Any) -> Shape:
        sizes = {"d_model": 64, "num_heads": 4, **values}
        return shape_of({"model": {"family": "helix"}, "helix": sizes, "seeds": {"topology": seed}})

    plain = told()
    assert (plain.num_layers, plain.model_dim, plain.options) == (4, 64, "helix, graph f71f10dda119")
    assert told(dropout=0.2, lti_init_a=0.5, embedding_scale=True) == plain
    assert "4 loops" in plain.words([plain])
    assert len({plain, told(7), told(dropout=0.0), told(rope=True), told(ffn_multiple=2), told(num_loops=2)}) == 6
    assert len(told(dropout=0.0, num_columns=32, attention="full", full_attention_interval=16, linear_feature_dim=128,
                    act="remainder", rope=True, root_bypass=False, z_norm="standard", merge_norm=True,
                    gate_fix=True).options) <= 400  # of its column in the table  # fmt: skip


def test_a_study_of_a_helix_has_one_config_for_each_shape() -> None:
    axes = {
        "helix.num_loops": {"choice": [2, 4]},
        "seeds.topology": {"choice": [42, 43]},
        "helix.dropout": {"choice": [0.1, 0.2]},
        "optim.matrix_lr": {"log": [0.0003, 0.003]},
    }
    base = {"model": {"family": "helix"}, "helix": {"d_model": 64, "num_heads": 4}, "data": {"seq_len": 128}}
    made = configs(control.parse_spec({**talk.SPEC, "space": axes, "base": base}))
    assert sorted((shape.num_layers, shape.options[-12:]) for shape in made) == sorted(
        (loops, shape_of({"model": {"family": "helix"}, "seeds": {"topology": seed}}).options[-12:])
        for loops in (2, 4)
        for seed in (42, 43)
    )
