"""Scripts that know nothing of sweeper, swept as they are: real service, real workers, real HTTP, real logs.

The stand-ins train nothing, and their loss depends on the matrix rate alone: best at 0.03.
"""

import shlex
import sys
from pathlib import Path

import httpx
import pytest

from sweeper.protocol import PromoteRequest
from sweeper.study import load
from tests.sweeper.installation import Installation
from tests.sweeper.waiting import until

STAND_INS = Path(__file__).parent / "stand_ins"
PYTHON = shlex.quote(sys.executable)
BASELINE = """
name = "fork"
trials = 4
judge = "quantised"
constraints = {{ artifact_bytes = 16_500_000 }}
sampler = {{ type = "random", seed = 3 }}
pruner = {{ type = "halving", factor = 2 }}
points = [{{ "trainer.MATRIX_LR" = 0.03 }}, {{ "trainer.MATRIX_LR" = 0.9 }}, {{ "trainer.MATRIX_LR" = 0.05 }}]

[budget]
seconds = 0.5
rungs = [0.4]

[trainer]
command = "{python} train_gpt.py"
directory = "{folder}"

[space]
"trainer.MATRIX_LR" = {{ log = [0.01, 0.9] }}

[base.trainer]
VAL_LOSS_EVERY = 2
STAND_IN_STEP_SECONDS = 0.01
STAND_IN_LINGER = 5

[promote]
tokens = "2x"
"""
DIALECT = """
name = "{dialect}"
trials = 3
sampler = {{ type = "random", seed = 3 }}
pruner = {{ type = "halving", factor = 2 }}
points = [{{ "optim.matrix_lr" = 0.03 }}, {{ "optim.matrix_lr" = 0.9 }}, {{ "optim.matrix_lr" = 0.01 }}]

[budget]
steps = 30
rungs = [0.3]

[trainer]
command = "{python} dialects.py --dialect {dialect}"
directory = "{folder}"
pass = "arguments"

[space]
"optim.matrix_lr" = {{ log = [0.01, 0.9] }}

[base.trainer]
fast-math = true
"""


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    made = Installation(tmp_path_factory.mktemp("any"), lease_seconds=30.0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def service(installation):
    return installation.serve()


def write(installation, name, text, **values):
    path = installation.folder / f"{name}.toml"
    path.write_text(text.format(python=PYTHON, folder=STAND_INS, **values))
    return path


def test_a_fork_of_the_baseline_is_swept_pruned_and_ranked(service, installation):
    # Two workers in one folder: the artifact that one writes is not read by the other.
    file = write(installation, "fork", BASELINE)
    done = installation.command("launch", "--study", file, "--workers", 2, "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr

    trials = installation.client.get("/studies/fork/trials")
    states = [trial["state"] for trial in trials]
    assert len(trials) == 4 and set(states) == {"complete", "pruned"}
    assert trials[0]["score"] == pytest.approx(1.2072), "the exact quantised score of a rate of 0.03"
    best = installation.client.study("fork")["best"]
    assert (best["number"], best["val_bpb"]) == (0, pytest.approx(1.2072))
    for trial in trials:
        run = installation.read(lambda results, n=trial["number"]: results.run("fork", "trial", n))
        assert run.parameters == 17059912 and run.config["passed"]["MATRIX_LR"] == run.row.params["trainer.MATRIX_LR"]
        if trial["state"] == "pruned":
            assert trial["reason"] == "behind at 40 %" and 0.4 <= run.row.progress < 1
    assert list((installation.settings.home / "runs" / "commands").iterdir()) == []
    for page in ("fork", "fork/trials/0", "fork/trials/1"):
        assert httpx.get(f"{installation.client.url}/studies/{page}", trust_env=False).status_code == 200


@pytest.fixture(scope="module")
def worker(service, installation):
    """A worker for all studies, whose owner allows commands."""
    return installation.start("worker", "--server", installation.client.url, "--device", "cpu", "--allow-commands")


def test_a_full_run_is_the_same_command_for_longer_and_keeps_its_files(worker, installation):
    text = BASELINE.replace('"fork"', '"full"').replace("trials = 4", "trials = 1")
    spec = load(str(write(installation, "full", text)), "cpu")
    installation.client.create_study(spec.model_dump(mode="json"))
    until(lambda: installation.client.study("full")["finished"], "the study to be complete")
    plan = installation.client.promote("full", PromoteRequest())
    assert plan.seconds == 1.0

    def promotion():
        (found,) = installation.client.study("full")["promotions"]
        return found if found["state"] == "complete" else None

    assert until(promotion, "the full run")["val_bpb"] == pytest.approx(1.2072)
    (kept,) = (installation.settings.home / "runs" / "commands").iterdir()
    assert (kept / "final_model.int8.ptz").exists()


def test_a_worker_that_allows_no_commands_leaves_and_burns_no_trial(service, installation):
    spec = load(str(write(installation, "short", DIALECT, dialect="short")), "cpu")
    installation.client.create_study(spec.model_dump(mode="json"))
    refused = installation.command("worker", "--server", installation.client.url, "--study", "short", "--device", "cpu")
    assert refused.returncode == 0 and "--allow-commands" in refused.stderr
    assert installation.client.get("/studies/short/trials") == []


@pytest.mark.parametrize("dialect", ["table", "short", "averaged"])
def test_every_dialect_is_swept(worker, installation, dialect):
    spec = load(str(write(installation, dialect, DIALECT, dialect=dialect)), "cpu")
    installation.client.create_study(spec.model_dump(mode="json"))
    until(lambda: installation.client.study(dialect)["finished"], "the study to be complete", 60)

    trials = installation.client.get(f"/studies/{dialect}/trials")
    assert [trial["state"] for trial in trials] == ["complete", "pruned", "pruned"]
    assert trials[0]["score"] == pytest.approx(1.19 if dialect == "averaged" else 1.2)
    run = installation.read(lambda results: results.run(dialect, "trial", 0))
    assert run.row.progress == 1 and run.points.step[-1] == 30
    if dialect == "averaged":
        found = {score.name: score.val_bpb for score in run.scores}
        assert found["quantised"] == pytest.approx(1.21) and found["quantised_sliding"] == pytest.approx(1.17)
        assert sum(message.kind == "notice" for message in run.messages) == 2
    if dialect == "table":
        assert run.row.tokens == 30 * 65536, "the Hyperparameters block says the batch"
