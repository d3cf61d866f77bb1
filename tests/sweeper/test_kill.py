"""kill -9 of the trainer, of the worker and of the service in mid-trial, with real processes."""

import signal

import pytest
from optuna.trial import TrialState

from sweeper.study import load
from tests.sweeper.installation import Installation, assert_nothing_lost_or_doubled, gone, trainer_of
from tests.sweeper.waiting import until

TRIALS = 2
STEPS = 50


@pytest.fixture
def installation(tmp_path, request):
    """With leases that soon run out, or of the seconds given as the fixture's parameter."""
    made = Installation(tmp_path, lease_seconds=getattr(request, "param", 2.0), step_seconds=0.02)
    yield made
    made.close()


@pytest.fixture
def service(installation):
    process = installation.serve()
    spec = load(str(installation.study_file(trials=TRIALS, steps=STEPS)), "cpu")
    installation.client.create_study(spec.model_dump(mode="json"))
    return process


def finish(installation, worker):
    """Wait for the end of the study, and for the worker to leave by itself."""
    until(lambda: installation.summary()["finished"], "the study to be complete", 60)
    assert worker.wait(timeout=20) == 0


def test_kill_of_the_trainer_repeats_the_trial_under_the_same_worker(installation, service):
    worker = installation.work()
    run = until(installation.running, "a trial under way")
    trainer_of(worker).send_signal(signal.SIGKILL)
    finish(installation, worker)

    (failed,) = assert_nothing_lost_or_doubled(installation, TRIALS, STEPS)
    assert failed.number == run["number"]
    state = installation.read(lambda results: results.run("toy", "trial", failed.number).row)
    assert state.state == "failed" and "died" in state.reason and "SIGKILL" in state.reason


def test_kill_of_the_worker_takes_its_trainer_along_and_another_repeats_the_trial(installation, service):
    first = installation.work()
    run = until(installation.running, "a trial under way")
    trainer = trainer_of(first)
    first.kill()
    first.wait()
    until(lambda: gone([trainer.pid]), "the orphaned trainer to leave")
    second = installation.work()
    finish(installation, second)

    (failed,) = assert_nothing_lost_or_doubled(installation, TRIALS, STEPS)
    assert failed.number == run["number"]
    reason = installation.read(lambda results: results.run("toy", "trial", failed.number).row.reason)
    assert "worker_lost" in reason


@pytest.mark.parametrize("installation", [20.0], indirect=True)  # a busy machine takes seconds to start another
def test_kill_of_the_service_costs_nothing(installation, service):
    worker = installation.work()
    run = until(installation.running, "a trial under way")
    service.kill()
    service.wait()
    trainer = trainer_of(worker)
    # The trainer goes on and the worker keeps what it says, beyond the end of the run.
    assert trainer is not None and trainer.is_running()
    installation.serve()
    finish(installation, worker)

    assert assert_nothing_lost_or_doubled(installation, TRIALS, STEPS) == []
    again = installation.read(lambda results: results.run("toy", "trial", run["number"]))
    assert again.row.attempt == 1 and again.row.state == "complete"


@pytest.mark.slow
def test_kill_of_service_and_worker_together_loses_nothing(installation, service):
    worker = installation.work()
    until(installation.running, "a trial under way")
    for process in (service, worker):
        process.kill()
        process.wait()
    assert [trial.state for trial in installation.trials()][-1] is TrialState.RUNNING
    installation.serve()
    finish(installation, installation.work())
    assert len(assert_nothing_lost_or_doubled(installation, TRIALS, STEPS)) == 1
