"""`sweeper confirm` from outside: shown, started, killed, resumed, and what the pages and the next plan say of it."""

import pytest

from tests.sweeper.installation import Installation, descendants, gone
from tests.sweeper.waiting import until


@pytest.fixture
def installation(tmp_path):
    made = Installation(tmp_path, step_seconds=0.02)
    yield made
    made.close()


@pytest.mark.slow
def test_confirmation_runs_are_shown_started_killed_and_resumed(installation):
    study = installation.study_file(trials=3, steps=20)
    swept = installation.command("launch", "--study", study)
    assert swept.returncode == 0, swept.stdout + swept.stderr

    order = ("confirm", "--study", "toy", "--tokens", "40x", "--device", "cpu")
    shown = installation.command(*order)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "to confirm the prior law before a full run of 819,200 tokens, for 37.5% of its cost" in shown.stdout
    assert shown.stdout.count("  rate × ") == 3 and "of device time in all" in shown.stdout
    assert "to start them: sweeper confirm --study toy --tokens 40x --device cpu --yes" in shown.stdout
    assert installation.read(lambda results: results.promotions("toy")) == ()

    broken = installation.start(*order, "--yes")

    def one_is_done_and_one_on_its_way():
        found = installation.read(lambda results: results.promotions("toy"))
        return [one.state for one in found[:1]] == ["complete"] and any(0.2 < one.progress < 0.8 for one in found[1:])

    until(one_is_done_and_one_on_its_way, "the second run to be on its way", 60)
    family = [child.pid for child in descendants(broken.pid)]
    broken.kill()
    broken.wait()
    until(lambda: gone(family), "everything to leave", 60)
    resumed = installation.command(*order, "--yes")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resuming confirmation run" in resumed.stdout and "confirmation run 2: " in resumed.stdout

    runs = [installation.read(lambda results, n=n: results.run("toy", "promotion", n)) for n in range(3)]
    assert [run.row.state for run in runs] == ["complete"] * 3
    assert {run.row.tokens for run in runs} == {102_400}, "an eighth of the full run"
    assert any(run.resumed_step > 0 for run in runs), "it went on from its checkpoint"
    summary = installation.read(lambda results: results.study("toy"))
    assert (summary.counts.complete, summary.counts.done) == (3, 3)
    assert {one.by for one in summary.promotions} == {"confirm"}
    assert "6 scores of 3 trials and 3 confirmation runs" in installation.command("fit", "--study", "toy").stdout
    status = installation.command("status", "--study", "toy").stdout
    assert status.count("confirmation run") == 3 and "promotion" not in status
    plan = installation.command("plan", "--study", "toy", "--tokens", "40x").stdout
    assert "3 confirmation runs at 102,400 tokens" in plan


@pytest.mark.slow
def test_lengths_that_cannot_be_are_refused_before_anything_starts(installation):
    study = installation.study_file(trials=1, steps=5)
    assert installation.command("launch", "--study", study).returncode == 0
    both = installation.command("confirm", "--study", "toy", "--tokens", "2x", "--hours", "1")
    assert (
        both.returncode == 2 and "--hours 1 is one length and --tokens 2x is another: say one of the two" in both.stderr
    )
    unknown = installation.command("promote", "--study", "toy", "--hours", "1", "--gpu", "H100")
    assert unknown.returncode == 2 and "how fast H100 trains is not known: trials ran on fake" in unknown.stderr
    for verb in ("confirm", "promote"):
        none = installation.command(verb, "--study", "toy", "--hours", "-3")
        assert none.returncode == 2 and "greater than or equal to 0.001" in none.stderr
    assert installation.read(lambda results: results.promotions("toy")) == ()
