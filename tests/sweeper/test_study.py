"""Study files: what is read, what is refused, and with which words."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from sweeper import files, study
from sweeper.errors import SweeperError
from sweeper.plan_file import token_count
from trainer.config import TrainConfig

HEAD = """
trials = 10
[budget]
seconds = 60
"""
RATE = """
[space]
"optim.matrix_lr" = { log = [0.005, 0.1], tie = { "optim.embed_lr" = 1.25 } }
"""
SCHEMA = Path(str(resources.files("studies"))) / "study.schema.json"


@pytest.fixture
def load(tmp_path):
    def load(text: str, profile: study.Profile = "gpu") -> study.StudySpec:
        path = tmp_path / "trial-run.toml"
        path.write_text(text)
        return study.load(str(path), profile)

    return load


def packaged_studies() -> list[str]:
    plans = {f"{name}.toml" for name in files.available("plan")}
    return [path.stem for path in SCHEMA.parent.glob("*.toml") if path.name not in plans]


@pytest.mark.parametrize("profile", ["gpu", "cpu"])
@pytest.mark.parametrize("name", packaged_studies())
def test_packaged_studies_load_from_any_folder(name, profile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    spec = study.load(name, profile)

    assert (spec.name, spec.profile) == (name, profile)


def test_a_study_of_the_current_folder_comes_before_a_packaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("studies").mkdir()
    Path("studies/lr-wd-batch.toml").write_text('description = "mine"' + HEAD + RATE)

    assert study.load("lr-wd-batch", "gpu").description == "mine"


def test_the_cpu_profile_of_lr_wd_batch_is_about_five_minutes_of_trials():
    spec = study.load("lr-wd-batch", "cpu")

    assert spec.trials == 16
    assert spec.budget.unit == "seconds"
    assert spec.budget.rungs == (0.3, 0.6)


def test_on_a_gpu_one_micro_batch_serves_every_batch_of_the_study():
    params = {"optim.matrix_lr": 0.02, "optim.matrix_weight_decay": 0.1, "model.num_layers": 5}
    for profile, expected in (("gpu", {65_536}), ("cpu", {0})):
        spec = study.load("lr-wd-batch", profile)
        layers = min(5, spec.space["model.num_layers"].high)
        found = {
            spec.config({**params, "model.num_layers": layers, "data.batch_tokens": batch})["data"][
                "micro_batch_tokens"
            ]
            for batch in spec.space["data.batch_tokens"].choice
        }
        assert found == expected


def test_a_spec_survives_json(load):
    spec = load(HEAD + RATE + "[cpu.budget]\nsteps = 5", "cpu")

    plain = json.loads(json.dumps(spec.model_dump(mode="json")))

    assert study.StudySpec.model_validate(plain) == spec
    assert study.StudySpec.model_validate(plain).fingerprint() == spec.fingerprint()


def test_a_config_holds_searched_tied_and_base_values_budget_and_rungs(load):
    spec = load(HEAD + "rungs = [0.25, 0.5]" + RATE + "[base.model]\nmodel_dim = 256")

    config = spec.config({"optim.matrix_lr": 0.02})

    assert config["optim"]["matrix_lr"] == 0.02
    assert config["optim"]["embed_lr"] == 0.025
    assert config["model"]["model_dim"] == 256
    assert config["model"]["vocab_size"] == 1024
    assert config["budget"] == {"seconds": 60.0, "tokens": None, "steps": None}
    assert {0.25, 0.5} < set(config["eval"]["fractions"])
    assert config["data"]["path"] == ""
    assert TrainConfig.from_dict(config).to_dict() == config


def test_the_vocabulary_follows_the_tokenizer_unless_the_base_says_more(load):
    gpt2 = HEAD + RATE + '[data]\nname = "small"\ntokenizer = "gpt2"\n'

    assert load(gpt2).config({"optim.matrix_lr": 0.02})["model"]["vocab_size"] == 50_257
    padded = load(gpt2 + "[base.model]\nvocab_size = 50_304")
    assert padded.config({"optim.matrix_lr": 0.02})["model"]["vocab_size"] == 50_304
    with pytest.raises(SweeperError, match="vocab_size must be at least 50257 for the tokenizer gpt2, got 1024"):
        load(gpt2 + "[base.model]\nvocab_size = 1024")


def test_config_refuses_values_off_the_axes(load):
    with pytest.raises(SweeperError, match="got 7"):
        load(HEAD + RATE).config({"optim.matrix_lr": 7.0})


def test_the_cpu_table_is_laid_over_the_rest(load):
    text = (
        HEAD
        + 'rungs = [0.5]\n[pruner]\ntype = "halving"\nfactor = 4\n[sampler]\ntype = "tpe"\nseed = 7'
        + RATE
        + '"model.num_layers" = { int = [5, 11], step = 3 }\n[base.model]\nmodel_dim = 512\nrope_base = 50_000.0\n'
        + '[cpu]\ntrials = 4\n[cpu.budget]\ntokens = 10_000\n[cpu.pruner]\ntype = "none"\n'
        + '[cpu.sampler]\nstartup_trials = 3\n[cpu.space]\n"model.num_layers" = { choice = [1, 2] }\n'
        + "[cpu.base.model]\nmodel_dim = 64\n"
    )

    gpu, cpu = load(text, "gpu"), load(text, "cpu")

    assert (gpu.trials, gpu.budget.unit, gpu.budget.seconds, gpu.base["model"]["model_dim"]) == (
        10,
        "seconds",
        60,
        512,
    )
    assert (cpu.trials, cpu.budget.unit, cpu.budget.tokens, cpu.budget.rungs) == (4, "tokens", 10_000, (0.5,))
    assert cpu.base["model"] == {"model_dim": 64, "rope_base": 50_000.0}
    assert cpu.pruner.type == "none"
    assert (cpu.sampler.type, cpu.sampler.seed, cpu.sampler.startup_trials) == ("tpe", 7, 3)
    assert cpu.space["model.num_layers"].kind == "choice"
    assert cpu.space["optim.matrix_lr"] == gpu.space["optim.matrix_lr"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trails = 5" + HEAD + RATE, "trails: unknown key; did you mean 'trials'"),
        ("[budget]\nseconds = 5" + RATE, "trials: missing"),
        ("trials = true\n[budget]\nseconds = 5" + RATE, "trials: .*got True"),
        ("trials = 5\n[budget]\nseconds = 5\nsteps = 9" + RATE, "exactly one of.*found seconds and steps"),
        ("trials = 5\n[budget]\nrungs = [0.5]" + RATE, "exactly one of.*found none"),
        (HEAD + "rungs = [0.6, 0.3]" + RATE, "budget.rungs: rungs are shares"),
        (HEAD + "rungs = [0.301, 0.304]" + RATE, "ascending by at least 0.01"),
        (HEAD + "rungs = []" + RATE, "pruning needs a rung"),
        (HEAD + RATE + '[pruner]\ntype = "halvign"', "pruner: .*'halving'.*halvign"),
        (
            HEAD + RATE + '[pruner]\ntype = "halving"\nfactr = 3',
            "pruner.factr: unknown key; did you mean 'factor'",
        ),
        (HEAD + RATE + '[promote]\ntokens = "3 billion"', "promote.tokens: .*got '3 billion'"),
        (HEAD + RATE + '[data]\nname = "small"\ntokenizr = "gpt2"', "data.tokenizr: unknown key"),
        (HEAD, "space: missing"),
        (HEAD + '[space]\n"optim.matrixlr" = { log = [0.1, 1] }', "did you mean 'optim.matrix_lr'"),
        (HEAD + '[space]\n"optim.matrix_lr" = { log = [1, 0.1] }', "low < high, got"),
        (
            HEAD + RATE + "[base.modle]\nmodel_dim = 3",
            "base.modle.model_dim: .*did you mean 'model.model_dim'",
        ),
        (HEAD + RATE + "[base]\nmodel = 3", "base.model must be a table of values"),
        (HEAD + RATE + '[base.model]\nmodel_dim = "wide"', "model.model_dim must be int, got 'wide'"),
        (
            HEAD + RATE + "[base.optim]\nmatrix_lr = 0.1",
            "optim.matrix_lr is also set by base.optim.matrix_lr",
        ),
        (HEAD + RATE + "[base.optim]\nembed_lr = 0.1", "optim.embed_lr is also set by base.optim.embed_lr"),
        (HEAD + RATE + '"optim.embed_lr" = { log = [0.1, 1] }', 'also set by space."optim.matrix_lr".tie'),
        (HEAD + '[space]\n"optim.matrix_lr" = { log = [0.1, 1], tie = { "optim.foo" = 2 } }', "'optim.foo'"),
        (HEAD + '[space]\n"budget.seconds" = { log = [1, 3] }', r"budget.seconds is set by \[budget\]"),
        (HEAD + RATE + '[base.data]\npath = "x"', r"data.path is set by \[data\]"),
        (
            HEAD + '[space]\n"model.num_layers" = { uniform = [1, 3] }',
            "takes a whole number, the axis holds 1.0",
        ),
        (
            HEAD + '[space]\n"model.tie_embeddings" = { int = [0, 1] }',
            "takes true or false, the axis holds 0",
        ),
        (HEAD + '[space]\n"runtime.compile" = { choice = ["on", "offf"] }', "must be one of.*got 'offf'"),
        (
            HEAD + '[space]\n"model.model_dim" = { choice = [512, 500, 256] }',
            "model.model_dim = 500 cannot run",
        ),
        (HEAD + '[space]\n"optim.momentum" = { uniform = [0.9, 1.0] }', "optim.momentum = 1.0 cannot run"),
        (
            HEAD + '[space]\n"model.num_layers" = { int = [2, 4], tie = { "optim.newton_schulz_steps" = 0.5 } }',
            "newton_schulz_steps must be int, got 1.5",
        ),
        (HEAD + RATE + "[cpu]\ntrial = 3", "cpu.trial: unknown key"),
        (HEAD + RATE + "[cpu.base.model]\nmodel_dim = 30", r"with \[cpu\] applied: .*model_dim \(30\)"),
        (HEAD + RATE + "[cpu.budget]\nsteps = 3\ntokens = 5", r"with \[cpu\] applied: budget: .*steps"),
        ("trials = [", "is not TOML"),
    ],
)
def test_mistakes_are_refused_with_file_path_and_value(load, text, said):
    with pytest.raises(SweeperError, match=rf"(?s)trial-run\.toml.*{said}"):
        load(text)


def test_all_mistakes_of_the_shape_are_told_at_once(load):
    with pytest.raises(SweeperError) as caught:
        load("trails = 5\ntrials = 0" + HEAD.replace("trials = 10", "") + RATE)

    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all("trial-run.toml: tr" in line for line in lines)


def test_a_clash_between_two_axes_is_found_though_each_corner_runs(load):
    # 8 heads of 256 and 6 of 192 are fine; 6 heads do not divide 256.
    text = HEAD + '[space]\n"model.model_dim" = { choice = [192, 256] }\n"model.num_heads" = { choice = [6, 8] }\n'

    with pytest.raises(SweeperError, match=r"model.model_dim = 256, model.num_heads = 6 cannot run"):
        load(text + "[base.model]\nnum_kv_heads = 2")


def test_an_unknown_study_names_those_that_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SweeperError, match=r"no study 'lr-wd-bacth'.*did you mean 'lr-wd-batch'.*known studies"):
        study.load("lr-wd-bacth", "gpu")


def test_only_what_decides_a_score_is_incompatible(load):
    old = load(HEAD + RATE)
    longer = HEAD.replace("10", "20")
    same = load(
        'description = "new words"\nretries = 0\nhang_seconds = 9\n' + longer + RATE + '[pruner]\ntype = "none"\n'
        '[sampler]\ntype = "random"\n[promote]\ntokens = "3B"\n'
    )
    assert study.incompatibilities(old, same) == []
    assert same.fingerprint() == old.fingerprint()
    whole, real = (load(HEAD + RATE + f"[base.model]\nmlp_mult = {written}") for written in ("2", "2.0"))
    assert study.incompatibilities(whole, real) == []
    assert whole.fingerprint() == real.fingerprint()

    changed = load(
        HEAD.replace("60", "90") + RATE.replace("0.1]", "0.2]") + "[base.model]\nmodel_dim = 256\n"
        '[data]\nname = "small"\ntokenizer = "gpt2"\n'
    )
    lines = study.incompatibilities(old, changed)
    assert "budget.seconds: 60 → 90" in lines
    assert "base.model.model_dim: (absent) → 256" in lines
    assert "data.tokenizer: sweeper1024 → gpt2" in lines
    assert len([line for line in lines if line.startswith('space."optim.matrix_lr"')]) == 1
    assert len(lines) == 4
    assert changed.fingerprint() != old.fingerprint()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("3B", 3_000_000_000),
        ("1.5M", 1_500_000),
        ("64K", 64_000),
        ("4096", 4096),
        ("20x", 2000),
        ("2.5x", 250),
    ],
)
def test_token_counts_are_read(text, count):
    assert token_count(text, trial_tokens=100) == count


@pytest.mark.parametrize("text", ["", "3G", "-3M", "x", "0M", "1e9"])
def test_other_token_counts_are_refused(text):
    with pytest.raises(ValueError, match="must look like 3B"):
        token_count(text, trial_tokens=100)


def test_the_published_schema_is_the_one_of_the_model():
    assert json.loads(SCHEMA.read_text()) == study.json_schema(), (
        "rebuild it: sweeper schema > studies/study.schema.json"
    )


def test_reading_a_study_imports_neither_optuna_nor_torch():
    code = (
        "import sys; from sweeper import study; study.load('lr-wd-batch', 'cpu'); "
        "print([name for name in ('optuna', 'torch', 'sqlalchemy') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"
