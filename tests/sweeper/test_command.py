"""Studies of somebody's own script: what their files may say, and in which words a trial's values reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper import command, promote, shape, study
from sweeper.commands import forecasting
from sweeper.errors import SweeperError
from sweeper.protocol import Grant, NoWork, PromoteRequest
from sweeper.service import Service, spec_of
from sweeper.study import StudySpec
from tests.sweeper import talk
from tests.sweeper.conftest import Opener
from trainer import events

STUDY = """
trials = 4
{top}
[budget]
{budget}
[trainer]
command = "python train_gpt.py --flag 'two words'"
{trainer}
[space]
{space}
[base.trainer]
WARMDOWN_ITERS = 300
{base}
"""
RATE = '"optim.matrix_lr" = { log = [0.01, 0.1], tie = { "optim.embed_lr" = 1.25 } }'


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(**parts: str) -> StudySpec:
        given = {"top": "", "budget": "seconds = 60", "trainer": "", "space": RATE, "base": ""} | parts
        path = tmp_path / "mine.toml"
        path.write_text(STUDY.format(**given))
        return study.load(str(path), "gpu")

    return load


def run_of(spec: StudySpec, **params: Any) -> Any:
    made = command.to_run(spec.config({path.replace("__", "."): value for path, value in params.items()}))
    assert made is not None
    return made


def test_values_go_by_the_names_of_parameter_golf(load: Any) -> None:
    run = run_of(load(base="[base.model]\nnum_layers = 7\ntie_embeddings = true"), optim__matrix_lr=0.02)

    assert run.argv == ["python", "train_gpt.py", "--flag", "two words"]
    assert run.environment == {
        "MATRIX_LR": "0.02",
        "TIED_EMBED_LR": "0.025",
        "NUM_LAYERS": "7",
        "TIE_EMBEDDINGS": "1",
        "WARMDOWN_ITERS": "300",
        "MAX_WALLCLOCK_SECONDS": "60",
        "SEED": "1337",
    }
    assert (run.budget_seconds, run.rungs, run.batch_tokens) == (60, [0.3, 0.6], None)


def test_values_go_as_arguments_where_the_study_says_so(load: Any) -> None:
    names = '{ "seeds.init" = "", "optim.embed_lr" = "embed-lr", "budget.steps" = "num-iterations" }'
    spec = load(trainer=f'pass = "arguments"\nnames = {names}', budget="steps = 100")
    run = run_of(spec, optim__matrix_lr=0.02)

    assert run.environment == {}
    pairs = dict(zip(run.argv[4::2], run.argv[5::2], strict=True))
    assert pairs == {
        "--matrix_lr": "0.02",
        "--embed-lr": "0.025",
        "--WARMDOWN_ITERS": "300",
        "--num-iterations": "100",
        "--max_wallclock_seconds": "0",
    }


def test_steps_end_a_run_that_has_a_cap_of_its_own(load: Any) -> None:
    run = run_of(load(budget="steps = 100"), optim__matrix_lr=0.02)
    assert (run.environment["ITERATIONS"], run.environment["MAX_WALLCLOCK_SECONDS"]) == ("100", "0")
    assert run.budget_seconds is None


def test_tokens_are_steps_of_a_batch(load: Any) -> None:
    run = run_of(load(budget="tokens = 10_000", base="TRAIN_BATCH_TOKENS = 1024"), optim__matrix_lr=0.02)
    assert run.environment["ITERATIONS"] == "10" and run.batch_tokens == 1024
    with pytest.raises(SweeperError, match=r"set data\.batch_tokens in base"):
        load(budget="tokens = 10_000")


def test_data_go_only_where_the_study_names_them(load: Any) -> None:
    run = run_of(load(top='data = { name = "/corpus" }'), optim__matrix_lr=0.02)
    assert run.environment["DATA_PATH"] == "/corpus" and "TOKENIZER_PATH" not in run.environment
    run = run_of(load(top='data = { name = "/corpus", tokenizer = "/bpe.model" }'), optim__matrix_lr=0.02)
    assert run.environment["TOKENIZER_PATH"] == "/bpe.model"


def test_knobs_are_searched_and_tied_by_their_own_name(load: Any) -> None:
    spec = load(space='"trainer.MUON_WD" = { log = [0.01, 0.1], tie = { "trainer.ADAM_WD" = 2.0 } }')
    run = run_of(spec, trainer__MUON_WD=0.02)
    assert (run.environment["MUON_WD"], run.environment["ADAM_WD"]) == ("0.02", "0.04")
    assert StudySpec.model_validate(spec.model_dump(mode="json")) == spec
    assert spec.hang_seconds == command.HANG_SECONDS


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"space": '"trainer.MUON WD" = { log = [0.01, 0.1] }'}, "'MUON WD' is no name"),
        ({"space": '"trainer.2X" = { log = [0.01, 0.1] }'}, "'2X' is no name"),
        ({"space": '"trainer.A-B" = { log = [0.01, 0.1] }'}, "'A-B' is no name"),
        ({"space": '"optim.matrix_weight_decay" = { log = [0.01, 0.1] }'}, "give it a name"),
        ({"space": '"optim.matrix_rl" = { log = [0.01, 0.1] }'}, "did you mean 'optim.matrix_lr'"),
        ({"space": RATE + '\n"trainer.MATRIX_LR" = { log = [0.01, 0.1] }'}, "MATRIX_LR is also set by"),
        ({"space": '"trainer.WARMDOWN_ITERS" = { int = [1, 2] }'}, "also set by base.trainer.WARMDOWN_ITERS"),
        ({"base": "MAX_WALLCLOCK_SECONDS = 5"}, r"also set by \[budget\]"),
        ({"base": "STEPS = [1, 2]"}, "a command takes numbers"),
        ({"base": '[base.model]\nnum_layers = "seven"'}, "takes a whole number, got 'seven'"),
        ({"trainer": 'names = { "optim.matrix_rl" = "X" }'}, "there is no config path"),
        ({"trainer": 'names = { "optim.matrix_lr" = "a b" }'}, "'a b' is no name"),
        ({"trainer": 'names = { "budget.seconds" = "" }'}, "must be told the budget"),
        ({"trainer": 'passing = "arguments"'}, "unknown key"),
    ],
)
def test_what_cannot_work_is_refused(load: Any, parts: dict[str, str], problem: str) -> None:
    with pytest.raises(SweeperError, match=problem):
        load(**parts)


@pytest.mark.parametrize("words", ['""', '"a \'b"'])
def test_a_command_must_be_one(load: Any, tmp_path: Path, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"trials = 1\nbudget = {{ steps = 5 }}\ntrainer = {{ command = {words} }}\n[space]\n{RATE}")
    with pytest.raises(SweeperError, match="command"):
        study.load(str(path), "gpu")


def test_a_knob_without_a_command_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('trials = 1\nbudget = { steps = 5 }\n[space]\n"trainer.X" = { log = [0.1, 1.0] }')
    with pytest.raises(SweeperError, match=r"\[trainer\] command names one"):
        study.load(str(path), "gpu")


def test_another_command_is_another_study(load: Any) -> None:
    old, new = load(), load(trainer='directory = "/elsewhere"')
    assert study.incompatibilities(old, new) == ["trainer.directory:  → /elsewhere"]


def test_nothing_is_forecast_of_shapes_that_only_the_script_knows(load: Any) -> None:
    assert shape.configs(load()) == {}
    assert "4 × " in forecasting.lines(load(), 4, 1, {})[0]


# The service: one kind of database will do here.
sqlite = pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)


@pytest.fixture
def service_with(opener: Opener) -> Any:
    def open_with(spec: StudySpec) -> Service:
        from sweeper import control

        service = opener()
        control.create_study(service, spec.model_dump(mode="json"))
        return service

    return open_with


@sqlite
def test_a_worker_that_may_run_no_commands_gets_none_and_is_told_why(load: Any, service_with: Any) -> None:
    service = service_with(load())
    talk.join(service, "w1")

    answer = talk.ask(service, "w1")
    assert isinstance(answer, NoWork) and answer.reason == "refused"
    assert "--allow-commands" in answer.message and "train_gpt.py" in answer.message
    assert talk.states(service, "mine") == [], "no trial is drawn, none is burnt"
    grant = talk.ask(service, "w1", commands=True)
    assert isinstance(grant, Grant) and grant.command is not None
    assert grant.command.environment["MATRIX_LR"] == str(grant.config["optim"]["matrix_lr"])
    again = talk.ask(service, "w1", commands=True)
    assert again == grant


@sqlite
def test_a_refused_study_does_not_keep_a_worker_from_another(load: Any, service_with: Any) -> None:
    from sweeper import control

    service = service_with(load())
    control.create_study(service, talk.SPEC)
    assert talk.take(service).study == "tiny"


def complete(service: Service, tokens: int) -> None:
    """A trial that ran to its end of 100 steps in 60 s."""
    talk.join(service, "w1")
    grant = talk.ask(service, "w1", commands=True)
    assert isinstance(grant, Grant)
    said: list[events.Event] = [
        events.Outcome(step=100, tokens=tokens, seconds=60.0, val_loss=2.0, val_bpb=1.2, val_tokens=0),
        events.End(reason="complete", step=100, tokens=tokens, seconds=60.0, wall_seconds=70.0),
    ]
    talk.say(service, grant, talk.start(), *map(events.to_dict, said))


@sqlite
def test_a_full_run_is_the_command_with_a_longer_budget(load: Any, service_with: Any) -> None:
    service = service_with(load(top='promote = { tokens = "10x" }'))
    complete(service, 0)

    plan = promote.promote(service, "mine", PromoteRequest())
    assert (plan.seconds, plan.steps, plan.tokens, plan.length) == (600, 1000, 0, "10x")
    assert "start" in " ".join(plan.notes) and "train_gpt.py" in " ".join(plan.notes)
    refused = talk.ask(service, "w1", kind="promotion")
    assert isinstance(refused, NoWork) and refused.reason == "refused"
    grant = talk.ask(service, "w1", kind="promotion", commands=True)
    assert isinstance(grant, Grant) and grant.command is not None
    assert (grant.command.environment["MAX_WALLCLOCK_SECONDS"], grant.command.keep) == ("600", True)
    assert (grant.command.rungs, grant.checkpoint) == ([], "")


@sqlite
@pytest.mark.parametrize("tokens", [0, 102_400])
def test_tokens_of_a_full_run_are_steps_where_a_step_is_known(load: Any, service_with: Any, tokens: int) -> None:
    service = service_with(load())
    complete(service, tokens)
    request = PromoteRequest(tokens="1M", plan_only=True)
    if not tokens:
        with pytest.raises(SweeperError, match="ask for a multiple such as 20x"):
            promote.promote(service, "mine", request)
        return
    plan = promote.promote(service, "mine", request)
    assert plan.config["passed"]["ITERATIONS"] == plan.steps == 977
    assert plan.config["passed"]["MAX_WALLCLOCK_SECONDS"] == 0
    assert spec_of(talk.study_row(service, "mine")).trainer is not None
