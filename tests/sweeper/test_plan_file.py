"""Plan files: their shape, their CPU profile, and the config that a trial's values become under them."""

from __future__ import annotations

import math

import pytest

from sweeper import files, study
from sweeper.errors import SweeperError
from sweeper.plan_file import EVERY, Plan, load_plan, token_count
from trainer.config import TrainConfig

PHASES = [
    {"name": "first", "tokens": "100K", "warmup": 0.1},
    {"name": "second", "tokens": "50K", "lr": 0.5, "optimizer": "reset", "data": "/far/away"},
]


def plan(**changes) -> Plan:
    return Plan.model_validate({"name": "p", "study": "s", "phases": PHASES} | changes)


def trial(**changes) -> dict:
    return TrainConfig.from_dict(
        {"budget": {"seconds": 3}, "schedule": {"warmdown": 0.3}, "optim": {"matrix_lr": 0.01},
         "data": {"seq_len": 128, "batch_tokens": 1024}} | changes
    ).to_dict()  # fmt: skip


def test_a_trials_values_run_under_a_plan():
    config = TrainConfig.from_dict(plan(base={"helix": {}, "optim": {"grad_clip": 2.0}}).lay_over(trial()))
    assert (config.optim.matrix_lr, config.optim.grad_clip) == (0.01, 2.0)
    assert config.budget.tokens == 150_000 and config.budget.seconds is None
    assert [(phase.name, phase.tokens, phase.optimizer) for phase in config.plan.phases] == [
        ("first", 100_000, "keep"), ("second", 50_000, "reset"),
    ]  # fmt: skip
    assert config.schedule == TrainConfig().schedule
    assert config.checkpoint.keep_best and config.eval.sample_tokens > 0


def test_ends_of_phases_are_validated_beside_the_grid():
    fractions = TrainConfig.from_dict(plan().lay_over(trial())).eval.fractions
    end = math.ceil(100_000 / 1024) / math.ceil(150_000 / 1024)
    assert any(abs(share - end) < 1e-6 for share in fractions)
    assert len(fractions) == round(1 / EVERY)


def test_the_cpu_profile_scales_tokens_and_replaces_data():
    cpu = {"tokens_scale": 0.001, "phase_data": "", "repeat_data": True, "values": {"a": 1}, "success": {"hours": 1.0}}
    small = plan(cpu=cpu, values={"a": 2, "b": 3}, success={"hours": 24.0, "tokens": 150_000}).for_cpu()
    assert [(phase.tokens, phase.data) for phase in small.phases] == [("100", ""), ("50", "")]
    assert small.values == {"a": 1, "b": 3} and small.repeat_data
    assert (small.success.hours, small.success.tokens) == (1.0, 150_000)
    assert small.for_cpu() == small, "nothing is left to apply"


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ({"name": "x", "tokens": "20x"}, "not a multiple of a trial's"),
        ({"name": "x", "tokens": "many"}, "must look like"),
        ({"name": "x", "tokens": "1M", "lr": 0.0}, "greater than 0"),
        ({"name": "x", "tokens": "1M", "speed": 3}, "speed"),
    ],
)
def test_a_phase_that_cannot_be_is_refused_with_its_file(tmp_path, phase, words):
    lines = "\n".join(f"{key} = {value!r}".replace("'", '"') for key, value in phase.items())
    path = tmp_path / "bad.toml"
    path.write_text(f'study = "s"\n[[phases]]\n{lines}\n')
    with pytest.raises(SweeperError, match=words) as caught:
        load_plan(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("text", "count"), [("3B", 3_000_000_000), ("1.5M", 1_500_000), ("64K", 64_000), ("7", 7)])
def test_tokens_are_read(text, count):
    assert token_count(text, 1) == count


def test_the_packaged_plan_and_its_study_fit_in_both_profiles():
    for profile in ("gpu", "cpu"):
        spec = study.load_with_plan("helix-3b", profile)
        assert spec.name == "helix" and spec.plan is not None
        config = TrainConfig.from_dict(spec.plan.lay_over(spec.config(spec.plan.values)))
        wanted = 3_120_000_000 if profile == "gpu" else 3_120_000
        assert config.budget.tokens == wanted and config.model.family == "helix"
    assert "helix-3b" in files.available("plan") and "helix-3b" not in files.available()


STUDY = """
trials = 1
budget = { steps = 9 }
space = { "optim.matrix_lr" = { log = [0.01, 0.02] } }
promote = { plan = "p" }
"""


def test_a_study_takes_up_the_plan_that_it_names_and_no_other_studys(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(STUDY)
    phases = '[[phases]]\nname = "x"\ntokens = "1M"\n'
    (tmp_path / "p.toml").write_text(f'study = "mine"\n{phases}')
    spec = study.load(str(path), "cpu")
    assert spec.plan is not None and spec.plan.phases[0].tokens == "1000000"
    assert study.StudySpec.model_validate(spec.model_dump(mode="json")) == spec
    (tmp_path / "p.toml").write_text(f'study = "other"\n{phases}')
    with pytest.raises(SweeperError, match="plan p is of study 'other', not of 'mine'"):
        study.load(str(path), "cpu")


def test_a_plan_that_cannot_run_is_refused_when_the_study_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(STUDY)
    (tmp_path / "p.toml").write_text('study = "mine"\n[[phases]]\nname = "x"\ntokens = "1M"\ndropout = 0.1\n')
    with pytest.raises(SweeperError, match=r"plan p: .*dropout is for model.family 'helix'"):
        study.load(str(path), "cpu")


def test_a_plan_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(SweeperError, match=r"no plan 'helix-4b'.*helix-3b"):
        load_plan("helix-4b")
