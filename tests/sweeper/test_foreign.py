"""A script that knows nothing of sweeper, as a trainer: real processes of real scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from sweeper.foreign import ForeignProcess
from sweeper.protocol import CommandRun
from tests.sweeper.installation import descendants, gone
from tests.sweeper.waiting import until

STAND_INS = Path(__file__).parent / "stand_ins"


@pytest.fixture
def trainer(tmp_path: Path) -> Generator[ForeignProcess]:
    process = ForeignProcess("cpu", tmp_path / "places", stop_grace_seconds=2.0)
    yield process
    process.kill()


def config(*argv: str, directory: Path = STAND_INS, **environment: Any) -> dict[str, Any]:
    return CommandRun(
        argv=[sys.executable, *argv],
        directory=str(directory),
        environment={name: str(value) for name, value in environment.items()},
        rungs=[0.3, 0.6],
    ).model_dump()


def listen(trainer: ForeignProcess, until_kind: str = "", seconds: float = 30.0) -> list[dict[str, Any]]:
    """Every event up to the end of the run, or up to the first of a kind."""
    heard: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    while trainer.busy and not (heard and heard[-1]["event"] == until_kind):
        assert time.monotonic() < deadline, f"no end of the run; heard {heard[-3:]}"
        event = trainer.next_event(0.1)
        heard += [event] if event else []
    return heard


def baseline(**environment: Any) -> dict[str, Any]:
    given = {"ITERATIONS": 20, "MAX_WALLCLOCK_SECONDS": 0, "VAL_LOSS_EVERY": 2, "MATRIX_LR": 0.03}
    return config("train_gpt.py", **(given | environment))


def test_a_run_of_the_baseline_is_heard_as_it_comes_and_leaves_nothing(trainer: ForeignProcess, tmp_path: Path) -> None:
    trainer.run(baseline(), hang_seconds=30)
    heard = listen(trainer)

    kinds = [event["event"] for event in heard if event["event"] != "log"]
    assert kinds[0] == "start" and kinds[-4:] == ["outcome", "score", "export", "end"]
    assert kinds.count("step") == 20 and kinds.count("eval") == 11
    by_kind = {event["event"]: event for event in heard}
    assert by_kind["score"]["val_bpb"] == pytest.approx(1.2072)
    assert by_kind["outcome"]["val_bpb"] == 1.2 and by_kind["end"]["reason"] == "complete"
    assert trainer.pid is None and list((tmp_path / "places").iterdir()) == []
    assert not (STAND_INS / "final_model.int8.ptz").exists()


def test_files_beside_the_script_are_linked_but_those_of_an_earlier_run(
    trainer: ForeignProcess, tmp_path: Path
) -> None:
    fork = tmp_path / "fork"
    fork.mkdir()
    (fork / "train_gpt.py").write_text((STAND_INS / "train_gpt.py").read_text())
    (fork / "final_model.int8.ptz").write_text("9.0")
    (fork / "data").mkdir()
    trainer.run({**baseline(), "directory": str(fork), "keep": True}, hang_seconds=30)
    listen(trainer)

    (place,) = (tmp_path / "places").iterdir()
    assert (place / "data").resolve() == fork / "data"
    assert (fork / "final_model.int8.ptz").read_text() == "9.0"
    assert not (place / "final_model.int8.ptz").is_symlink()


def test_a_stop_ends_the_run_as_stopped(trainer: ForeignProcess) -> None:
    trainer.run(baseline(ITERATIONS=100_000), hang_seconds=30)
    listen(trainer, "step")
    trainer.stop()
    last = listen(trainer)[-1]
    assert (last["event"], last["reason"]) == ("end", "stopped") and last["step"] > 0


def test_a_stop_that_is_not_obeyed_kills_every_session_and_still_ends_as_stopped(
    trainer: ForeignProcess, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    source = (
        "import pathlib, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "rank = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
        f"pathlib.Path({str(note)!r}).write_text(str(rank.pid)); "
        "print('step:1/9 train_loss:3.0 train_time:1ms'); time.sleep(600)"
    )
    trainer.run(config("-c", source), hang_seconds=60)
    listen(trainer, "step")
    trainer.stop()
    last = listen(trainer)[-1]
    assert (last["event"], last["reason"]) == ("end", "stopped") and "did not obey" in last["detail"]
    until(lambda: gone([int(note.read_text())]), "the rank in its own session to be gone", 5)


def test_a_script_that_dies_is_a_crash_with_its_last_words(trainer: ForeignProcess) -> None:
    trainer.run(baseline(STAND_IN_CRASH=1), hang_seconds=30)
    last = listen(trainer)[-1]
    assert (last["event"], last["reason"]) == ("failure", "crash")
    assert last["context"]["exit"] == "1" and "device-side assert, as ordered" in last["context"]["stderr"]


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        ("print('all is well')", "crash", "no final score"),
        ("import os; os.kill(os.getpid(), 11)", "crash", "SIGSEGV"),
        ("raise RuntimeError('torch.OutOfMemoryError: CUDA out of memory. Tried')", "out_of_memory", "code 1"),
    ],
)
def test_other_ends_without_a_score(trainer: ForeignProcess, source: str, reason: str, words: str) -> None:
    trainer.run(config("-c", source), hang_seconds=30)
    last = listen(trainer)[-1]
    assert (last["event"], last["reason"]) == ("failure", reason) and words in last["message"]


def test_a_command_that_is_not_there_says_so(trainer: ForeignProcess) -> None:
    trainer.run({**baseline(), "argv": ["no-such-torchrun"]}, hang_seconds=30)
    last = listen(trainer)[-1]
    assert last["reason"] == "crash" and "cannot start no-such-torchrun" in last["context"]["stderr"]
    with pytest.raises(OSError):
        trainer.run({**baseline(), "directory": "/no/such/folder"}, hang_seconds=30)


def test_a_launcher_that_fails_on_its_way_out_has_told_all(trainer: ForeignProcess) -> None:
    source = "print('final_int8_zlib_roundtrip val_loss:2.0 val_bpb:1.2'); raise SystemExit(3)"
    line = "print('step:9/9 val_loss:2.0 val_bpb:1.1'); "
    trainer.run(config("-c", line + source), hang_seconds=30)
    heard = listen(trainer)
    assert heard[-1]["reason"] == "complete"
    assert any("code 3" in event.get("message", "") for event in heard)


def test_a_log_on_stderr_is_read_too(trainer: ForeignProcess) -> None:
    lines = ["step:9/9 val_loss:2.0 val_bpb:1.1", "final_int8_zlib_roundtrip val_loss:2.0 val_bpb:1.2"]
    trainer.run(config("-c", f"import sys; sys.stderr.write({chr(10).join(lines) + chr(10)!r})"), hang_seconds=30)
    heard = listen(trainer)
    assert [event["val_bpb"] for event in heard if event["event"] in ("outcome", "score")] == [1.1, 1.2]


def test_nan_ends_the_run_at_once(trainer: ForeignProcess) -> None:
    trainer.run(baseline(MATRIX_LR=2.0, ITERATIONS=100_000), hang_seconds=30)
    last = listen(trainer)[-1]
    assert (last["event"], last["reason"]) == ("end", "diverged")
    assert trainer.pid is None


def test_silence_is_a_hang(trainer: ForeignProcess) -> None:
    trainer.run(config("-c", "import time; time.sleep(600)"), hang_seconds=0.5)
    assert listen(trainer)[-1]["reason"] == "hung"


def test_a_knob_that_the_script_does_not_know_is_named(trainer: ForeignProcess) -> None:
    trainer.run(baseline(MATRIX_RL=0.1), hang_seconds=30)
    heard = listen(trainer)
    assert heard[0]["event"] == "notice" and heard[0]["message"].startswith("MATRIX_RL:")


def test_the_script_ends_when_its_worker_is_gone(tmp_path: Path) -> None:
    """kill -9 of the process that holds it: the script does not read stdin, so its leash does."""
    script = (
        "import sys, time, pathlib; from sweeper.foreign import ForeignProcess; "
        f"trainer = ForeignProcess('cpu', pathlib.Path({str(tmp_path / 'places')!r})); "
        f"trainer.run({baseline(ITERATIONS=100_000)!r}, 60); print(trainer.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        below = until(lambda: descendants(pid), "the script to start")
        os.kill(holder.pid, signal.SIGKILL)
    until(lambda: gone([pid, below[0].pid]), "leash and script to leave", 15)
