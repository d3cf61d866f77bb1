"""A home of its own with real processes: the service, workers and the command line, and the fake trainer."""

import contextlib
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import optuna
import psutil
from optuna.trial import TrialState

from sweeper.client import Client, ServiceAway
from sweeper.results import Results
from sweeper.settings import Settings
from sweeper.storage import open_engine
from tests.sweeper import forked
from tests.sweeper.waiting import until

FAKE = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).parents[1] / 'fake_trainer.py'))}"

STUDY = """
name = "toy"
trials = {trials}
data = {{ name = "small" }}
hang_seconds = 20
retries = 2
pruner = {{ type = "{pruner}" }}

[budget]
steps = {steps}

[sampler]
type = "random"
seed = 1

[space]
"optim.matrix_lr" = {{ log = [0.003, 0.3] }}
"model.num_layers" = {{ int = [2, 4] }}

[base.data]
seq_len = 128
batch_tokens = 1024

[promote]
tokens = "20x"
"""


class Installation:
    """Processes are started by methods and all ended by `close`."""

    def __init__(self, folder, *, lease_seconds=3.0, step_seconds=0.01, **fake):
        self.folder = Path(folder)
        self.settings = Settings(
            home=self.folder / "home",
            storage=f"sqlite:///{self.folder / 'home' / 'sweeper.db'}",
            lease_seconds=lease_seconds,
        )
        self.environment = {
            **os.environ,
            **self.settings.environment(),
            "SWEEPER_TRAINER": FAKE,
            "FAKE_STEP_SECONDS": str(step_seconds),
            **{f"FAKE_{name.upper()}": str(value) for name, value in fake.items()},
        }
        self.processes = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.client = Client(f"http://127.0.0.1:{self.port}", timeout_seconds=10.0)

    def close(self):
        self.client.close()
        family = [child for process in self.processes if process.poll() is None for child in descendants(process.pid)]
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def study_file(self, *, trials=3, steps=20, pruner="none"):
        path = self.folder / "toy.toml"
        path.write_text(STUDY.format(trials=trials, steps=steps, pruner=pruner))
        return path

    def command(self, *arguments, timeout=60):
        """Run a sweeper command to its end; its output is text."""
        return forked.sweeper(*arguments, environment=self.environment, folder=self.folder, timeout=timeout)

    def start(self, *arguments):
        """Start a sweeper command in the background."""
        process = subprocess.Popen(
            [sys.executable, "-m", "sweeper.cli", *map(str, arguments)],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def serve(self):
        process = self.start("serve", "--port", self.port)
        until(self.answers, "the service to answer")
        return process

    def answers(self):
        try:
            return self.client.health()
        except ServiceAway:
            return None

    def work(self, *arguments):
        return self.start("worker", "--server", self.client.url, "--study", "toy", "--device", "cpu", *arguments)

    def summary(self):
        return self.client.study("toy")

    def running(self, least_step=3):
        """The run in a worker's hand once it has come some way, else None."""
        runs = self.summary()["running"]
        return runs[0] if runs and runs[0]["step"] >= least_step else None

    def trials(self):
        """All trials as Optuna has them."""
        storage = optuna.storages.RDBStorage(self.settings.storage)
        try:
            return optuna.load_study(study_name="toy", storage=storage).trials
        finally:
            storage.engine.dispose()

    def read(self, question):
        """The answer to a question to the read model."""
        engine = open_engine(self.settings.storage)
        try:
            return question(Results(engine))
        finally:
            engine.dispose()


def descendants(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def trainer_of(worker):
    """The trainer process of a worker process."""
    found = [child for child in descendants(worker.pid) if any("fake_trainer" in part for part in child.cmdline())]
    return found[0] if found else None


def gone(pids):
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def assert_nothing_lost_or_doubled(installation, trials, steps):
    """What must hold of a finished study, whatever was killed on the way: returns the failed trials.

    The target is told exactly; nothing is left RUNNING or WAITING; each failed trial has one successor with
    the same values; each trial has one run of an unbroken curve.
    """
    told = installation.trials()
    finished = [trial for trial in told if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    failed = [trial for trial in told if trial.state is TrialState.FAIL]
    assert len(finished) == trials
    assert len(finished) + len(failed) == len(told)
    assert [trial.number for trial in told] == list(range(len(told)))
    for trial in failed:
        again = [other for other in told if other.user_attrs.get("retry_of") == trial.number]
        assert [other.params for other in again] == [trial.params]
    for trial in told:
        run = installation.read(lambda results, n=trial.number: results.run("toy", "trial", n))
        curve = [
            int(step)
            for step, loss in zip(run.points.step, run.points.train_loss, strict=True)
            if loss == loss  # a number: a Step, no Eval
        ]
        assert curve == list(range(1, len(curve) + 1)), "a curve with a gap or a point twice"
        if trial.state is TrialState.COMPLETE:
            assert len(curve) == steps
    return failed
