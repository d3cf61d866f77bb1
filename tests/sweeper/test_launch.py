"""One trainer process, with a fake trainer in a process of its own."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeper import launch
from sweeper.launch import TrainerProcess
from sweeper.pipes import LOG_BURST_LINES
from tests.sweeper.waiting import until

FAKE = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).parents[1] / 'fake_trainer.py'))}"
CONFIG = {
    "optim": {"matrix_lr": 0.03},
    "data": {"batch_tokens": 1024},
    "budget": {"seconds": 1.0, "tokens": None, "steps": None},
    "eval": {"fractions": [0.3, 0.6], "stride": 0},
    "export": {"scheme": "off"},
    "checkpoint": {"path": ""},
}


@pytest.fixture
def trainer(monkeypatch):
    monkeypatch.setenv("SWEEPER_TRAINER", FAKE)
    process = TrainerProcess("cpu", stop_grace_seconds=1.0)
    yield process
    process.kill()


def listen(trainer, until=None, seconds=30.0):
    """Every event up to the end of the run, or up to the first of kind `until`."""
    heard, deadline = [], time.monotonic() + seconds
    while trainer.busy and not (heard and heard[-1]["event"] == until):
        assert time.monotonic() < deadline, f"no end of the run; heard {heard[-3:]}"
        event = trainer.next_event(0.1)
        heard += [event] if event else []
    return heard


def outside(monkeypatch, source):
    """A trainer made of one line of Python."""
    monkeypatch.setenv("SWEEPER_TRAINER", f"{shlex.quote(sys.executable)} -c {shlex.quote(source)}")


def alive(pid):
    """Whether the process runs; a zombie does not."""
    answer = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, timeout=10)
    return bool(answer.stdout.strip()) and not answer.stdout.startswith("Z")


def test_a_run_gives_its_events_in_order_and_the_process_lives_on(trainer):
    trainer.run(CONFIG, hang_seconds=30)
    first_pid = trainer.pid
    kinds = [event["event"] for event in listen(trainer)]
    trainer.run(CONFIG, hang_seconds=30)
    again = listen(trainer)

    assert kinds[0] == "start" and kinds[-2:] == ["outcome", "end"]
    assert kinds.count("step") == 20 and kinds.count("eval") == 3
    assert again[-1]["reason"] == "complete"
    assert trainer.pid == first_pid


def test_a_stop_ends_the_run_as_stopped(trainer, monkeypatch):
    monkeypatch.setenv("FAKE_STEPS", "100000")
    trainer.run(CONFIG, hang_seconds=30)
    listen(trainer, until="step")
    trainer.stop()
    assert listen(trainer)[-1]["reason"] == "stopped"


def test_a_stop_that_is_not_obeyed_kills_and_still_ends_as_stopped(trainer, monkeypatch):
    monkeypatch.setenv("FAKE_STEPS", "100000")
    monkeypatch.setenv("FAKE_IGNORE_STOP", "1")
    trainer.run(CONFIG, hang_seconds=30)
    pid = trainer.pid
    listen(trainer, until="step")
    trainer.stop()
    last = listen(trainer)[-1]

    assert (last["event"], last["reason"]) == ("end", "stopped")
    assert last["step"] > 0 and "did not obey" in last["detail"]
    assert not alive(pid)


def test_death_is_a_failure_with_exit_code_and_last_words_and_the_next_run_has_a_new_process(
    trainer, monkeypatch, tmp_path
):
    monkeypatch.setenv("FAKE_CRASH_ONCE", str(tmp_path / "crashed"))
    trainer.run(CONFIG, hang_seconds=30)
    heard = listen(trainer)
    trainer.run(CONFIG, hang_seconds=30)

    assert heard[-1]["event"] == "failure" and heard[-1]["reason"] == "died"
    assert heard[-1]["context"]["exit"] == "3"
    assert "segmentation fault, as ordered" in heard[-1]["context"]["stderr"]
    assert {"event": "log", "text": "segmentation fault, as ordered"} in heard
    assert listen(trainer)[-1]["reason"] == "complete"


def test_a_signal_is_named(trainer, monkeypatch):
    monkeypatch.setenv("FAKE_STEPS", "100000")
    trainer.run(CONFIG, hang_seconds=30)
    listen(trainer, until="step")
    os.kill(trainer.pid, signal.SIGKILL)
    assert "SIGKILL" in listen(trainer)[-1]["message"]


def test_silence_is_a_hang_and_kills(trainer, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_HANG_ONCE", str(tmp_path / "hung"))
    trainer.run(CONFIG, hang_seconds=1.0)
    pid = trainer.pid
    last = listen(trainer)[-1]
    assert (last["event"], last["reason"]) == ("failure", "hung")
    assert not alive(pid)


def test_a_grandchild_that_keeps_the_pipe_open_hides_no_death_and_is_killed(trainer, monkeypatch, tmp_path):
    note = tmp_path / "pid"
    outside(
        monkeypatch,
        "import subprocess, sys, pathlib; input(); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid)); sys.exit(5)",
    )
    trainer.run(CONFIG, hang_seconds=60)
    last = listen(trainer)[-1]
    assert last["reason"] == "died" and last["context"]["exit"] == "5"
    until(lambda: not alive(int(note.read_text())), "the grandchild to be gone", 5)


def test_lines_that_are_no_events_become_bounded_logs(trainer, monkeypatch):
    outside(
        monkeypatch,
        'import sys; input(); [print("loss nan") for _ in range(1000)]; print(\'{"event": "step"}\'); '
        "sys.stdout.flush(); sys.exit(0)",
    )
    trainer.run(CONFIG, hang_seconds=30)
    heard = listen(trainer)
    logs = [event for event in heard if event["event"] == "log"]
    assert logs[0]["text"] == "loss nan"
    assert LOG_BURST_LINES <= len(logs) < LOG_BURST_LINES + 20
    assert heard[-1]["reason"] == "died"


def test_the_trainer_ends_when_its_worker_is_gone(tmp_path):
    """kill -9 of the process that holds the trainer: end of file on stdin is its order to leave."""
    script = (
        "import sys, time; from sweeper.launch import TrainerProcess; "
        f"trainer = TrainerProcess('cpu'); trainer.run({CONFIG!r}, 60); print(trainer.pid, flush=True); "
        "time.sleep(600)"
    )
    environment = {**os.environ, "SWEEPER_TRAINER": FAKE, "FAKE_STEPS": "100000"}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as holder:
        pid = int(holder.stdout.readline())
        assert alive(pid)
        holder.kill()
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline, "the trainer outlived its worker"
        time.sleep(0.05)


def test_close_lets_an_idle_trainer_quit(trainer):
    trainer.run(CONFIG, hang_seconds=30)
    listen(trainer)
    pid = trainer.pid
    trainer.close()
    assert not alive(pid) and trainer.pid is None


def test_a_cpu_worker_shows_its_trainer_no_gpu(trainer, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    outside(monkeypatch, "import os; input(); print('sees', repr(os.environ['CUDA_VISIBLE_DEVICES']))")
    trainer.run(CONFIG, hang_seconds=30)
    assert listen(trainer)[0]["text"] == "sees ''"


def test_several_devices_share_a_run_under_torchrun(monkeypatch):
    monkeypatch.delenv(launch.COMMAND_VARIABLE, raising=False)
    assert "torch.distributed.run" not in launch.command()
    words = launch.command(3)
    assert words[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    assert words[-3:] == ["-m", "trainer", "serve"]
