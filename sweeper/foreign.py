"""A training script that knows nothing of sweeper, as the trainer of one run: a process a trial, its log read.

Scripts write files beside themselves and read them back, `final_model.int8.ptz` for one, and two workers may run
the same script in one folder.  So each run starts in a folder of its own, into which everything of the script's
folder is linked.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sweeper import devices, dialects, leash, provenance
from sweeper.pipes import Pipes
from sweeper.process import RunningProcess, exit_words
from sweeper.protocol import CommandRun
from sweeper.transcript import Transcript
from trainer import events

TAIL_LINES = 60
"""Of stderr: launchers say much about the death of a rank."""
RESULTS = ("final_model*",)
"""What an earlier run may have left in the script's folder: not linked, as writing would go through the link."""
OUT_OF_MEMORY = ("OutOfMemoryError", "CUDA out of memory")
LONGEST_SCRIPT_BYTES = 1 << 22


class ForeignProcess(RunningProcess):
    """Runs one command after another, each in a process of its own."""

    def __init__(self, device: str, places: Path, *, stop_grace_seconds: float = 30.0) -> None:
        """
        Args:
            device: `cpu` or `cuda:N`; the command sees no other, unless a value of its says so.
            places: where the folders of runs are made.
            stop_grace_seconds: a command that has not obeyed SIGTERM by then is killed.
        """
        super().__init__(device, stop_grace_seconds=stop_grace_seconds)
        self._places = places
        self._place: Path | None = None
        self._keep = False
        self._transcript: Transcript | None = None

    def run(self, config: dict[str, Any], hang_seconds: float) -> None:
        """As RunningProcess.run; `config` holds the values of a CommandRun."""
        assert not self._busy, "one run at a time"
        run = CommandRun.model_validate(config)
        self._clear()
        self._keep = run.keep
        directory = Path(run.directory or Path.cwd()).expanduser()
        self._place = _make_place(directory, self._places)
        self._commit = provenance.commit_of(directory)
        # Without this Python keeps lines back when it writes into a pipe, and nothing would be heard for minutes.
        environment = {"PYTHONUNBUFFERED": "1", **devices.environment(self._device), **run.environment}
        argv = [sys.executable, "-I", "-S", leash.__file__, *run.argv]
        self._pipes = Pipes(
            argv, {**os.environ, **environment}, _understand, folder=self._place, tail_lines=TAIL_LINES, both=True
        )
        self._transcript = Transcript(run, self._device, devices.describe(self._device))
        self._begin(hang_seconds)
        if unknown := _unknown_names(run, self._place):
            text = f"{', '.join(unknown)}: nowhere in the script; unless a module of it asks for them, they do nothing"
            self._waiting.append(events.to_dict(events.Notice(message=text)))
        if run.keep:
            self._waiting.append(events.to_dict(events.Notice(message=f"files of this run stay in {self._place}")))

    def _order_stop(self) -> None:
        assert self._pipes is not None
        self._pipes.terminate()

    def _events_of(self, said: Any) -> list[dict[str, Any]]:
        assert self._transcript is not None
        return [events.to_dict(event) for event in self._transcript.take(said, time.monotonic() - self._began)]

    def _ended(self, pipes: Pipes, status: int | None) -> list[dict[str, Any]]:
        assert self._transcript is not None
        told = self._transcript.finish(time.monotonic() - self._began)
        if self._stop_at is not None and status != 0:
            return []
        if told and status != 0:
            # Launchers fail on the way out, when everything has been said.
            said = events.Notice(message=f"the command {exit_words(status)}, after its final scores")
            return [events.to_dict(event) for event in (said, *told)]
        return [events.to_dict(event) for event in told]

    def _pass_on(self, event: dict[str, Any]) -> dict[str, Any]:
        passed = super()._pass_on(event)
        if not self._busy:
            self.kill()
        return passed

    def _lost(self, reason: str, message: str) -> dict[str, Any]:
        """As RunningProcess._lost: a script that leaves without a final score has crashed."""
        said = super()._lost(reason, message)
        if said["event"] == "failure" and said["reason"] == "died":
            full = any(word in said["context"]["stderr"] for word in OUT_OF_MEMORY)
            said["reason"] = "out_of_memory" if full else "crash"
            words = exit_words(int(said["context"]["exit"])) if "exit" in said["context"] else exit_words(None)
            said["message"] = f"the command {words} and had printed no final score"
        return said

    def kill(self) -> None:
        """As RunningProcess.kill, and clear away what the run wrote."""
        super().kill()
        self._clear()

    def _clear(self) -> None:
        if self._place is not None and not self._keep:
            shutil.rmtree(self._place, ignore_errors=True)  # links go, not what they lead to
        self._place = None


def _understand(line: str) -> tuple[list[dialects.Said], bool]:
    """What it says, and whether it goes to the log too: all but the curve does."""
    said = dialects.parse(line)
    return said, not any(isinstance(item, (dialects.Train, dialects.Validation)) for item in said)


def _make_place(directory: Path, places: Path) -> Path:
    """A folder of links to everything in `directory`.

    Raises:
        OSError: `directory` cannot be read, or nothing can be made in `places`.
    """
    entries = list(directory.absolute().iterdir())
    places.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=places, prefix=f"{time.strftime('%Y%m%d-%H%M%S')}-"))
    for entry in entries:
        if not any(fnmatch.fnmatch(entry.name, pattern) for pattern in RESULTS):
            (place / entry.name).symlink_to(entry)
    return place


def _unknown_names(run: CommandRun, place: Path) -> list[str]:
    """Variables that no script on the command line mentions; none where no script is found there.

    A knob with a typo changes nothing, and its sweep would measure noise.
    """
    sources = []
    for word in run.argv:
        path = place / word
        with contextlib.suppress(OSError):
            if path.suffix == ".py" and path.stat().st_size <= LONGEST_SCRIPT_BYTES:
                sources.append(path.read_text(errors="replace"))
    text = "\n".join(sources)
    return [name for name in run.environment if name not in text] if sources else []
