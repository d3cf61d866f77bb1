"""Notes: kept with their study or trial, read back newest first, refused where there is nothing to note them on."""

from __future__ import annotations

import pytest
from rich.console import Console

from sweeper import notes
from sweeper.commands import noting
from sweeper.errors import SweeperError
from sweeper.results import Results
from sweeper.service import Service, Unknown
from tests.sweeper import talk

NAME = talk.SPEC["name"]
pytestmark = pytest.mark.usefixtures("study")


def test_notes_are_read_back_newest_first_with_their_trial(service: Service) -> None:
    grant = talk.take(service)
    notes.add(service, NAME, "  the whole study\x00 ")
    notes.add(service, NAME, "two\nlines", trial=grant.number)
    results = Results(service.engine)
    before = results.version(NAME)
    assert [(one.trial, one.text) for one in results.notes(NAME)] == [
        (grant.number, "two\nlines"),
        (None, "the whole study\ufffd"),
    ]
    assert [one.text for one in results.run(NAME, "trial", grant.number).notes] == ["two\nlines"]
    notes.add(service, NAME, "third")
    assert results.version(NAME) != before, "an open page is told"
    assert results.activity(NAME)[0].verb == "noted"


@pytest.mark.parametrize(("text", "trial", "said"), [("  ", None, "1 to"), ("x" * 10_001, None, "1 to"), ("x", 7, "7")])
def test_what_cannot_be_noted_is_refused(service: Service, text, trial, said) -> None:
    with pytest.raises(SweeperError, match=said):
        notes.add(service, NAME, text, trial)
    with pytest.raises(Unknown):
        notes.add(service, "gone", "text")
    assert not Results(service.engine).notes(NAME)


def test_the_command_keeps_and_prints_them(service: Service, settings) -> None:
    console = Console(record=True, width=120)
    noting.note(settings, NAME, None, None, console)
    noting.note(settings, NAME, None, "try a longer warm-up", console)
    noting.note(settings, NAME, None, None, console)
    said = console.export_text().splitlines()
    assert said[0] == "no notes yet" and said[1] == f"noted on {NAME}" and said[2].endswith("  try a longer warm-up")
