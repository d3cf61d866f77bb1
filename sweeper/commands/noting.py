"""`sweeper note`: keep a remark, or print those that there are."""

from __future__ import annotations

import time

from rich.console import Console

from sweeper import display, notes
from sweeper.commands.reading import database
from sweeper.results import Results
from sweeper.service import Service
from sweeper.settings import Settings


def note(settings: Settings, study: str, trial: int | None, text: str | None, console: Console) -> None:
    """
    Args:
        text: None to print the notes on the study, or on the trial.

    Raises:
        SweeperError: no such study or trial, or a text that is no note.
    """
    with database(settings) as engine:
        if text is None:
            found = [one for one in Results(engine).notes(study) if trial is None or one.trial == trial]
            for one in found:
                where = "" if one.trial is None else f"trial {one.trial}: "
                at = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created_at))
                display.say(console, f"{at}  {where}{one.text}")
            if not found:
                display.say(console, "no notes yet")
            return
    service = Service.open(settings)
    try:
        notes.add(service, study, text, trial)
    finally:
        service.close()
    display.say(console, f"noted on {study if trial is None else f'trial {trial} of {study}'}")
