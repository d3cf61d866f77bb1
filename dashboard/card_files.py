"""Cards of the scaling page as files, so that a service that has just started need not fit before it can show them.

A cache: it may be deleted at any time. It is never read by another version of the code than the one that wrote it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from functools import cache
from pathlib import Path

from sweeper.observations_read import Mark

log = logging.getLogger(__name__)

SOURCES = tuple(Path(__file__).parent.parent / package for package in ("dashboard", "sweeper", "trainer"))


@cache
def code_version() -> str:
    """A hash over all that decides what a card says."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in folder.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class CardFiles:
    """Bodies of cards in a folder of its own below the one given; none where that is None."""

    def __init__(self, folder: Path | None) -> None:
        self._parent = folder

    @property
    def _folder(self) -> Path | None:
        return None if self._parent is None else self._parent / f"cards-{code_version()}"

    def read(self, place: tuple[str, ...]) -> tuple[Mark, bytes] | None:
        """The mark at which the card of this place was drawn, and its body; None where there is none."""
        if self._folder is None:
            return None
        try:
            head, _, body = (self._folder / _name(place)).read_bytes().partition(b"\n")
            mark, size = json.loads(head)
        except (OSError, ValueError, TypeError):
            return None
        return (tuple(mark), body) if len(body) == size else None

    def write(self, place: tuple[str, ...], mark: Mark, body: bytes) -> None:
        """Keep it in place of an earlier one; a disk that is full or read-only is no reason to show nothing."""
        if self._parent is None or self._folder is None:
            return
        try:
            if not self._folder.exists():
                for other in self._parent.glob("cards-*"):
                    shutil.rmtree(other, ignore_errors=True)
                self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(json.dumps([mark, len(body)]).encode() + b"\n" + body)
            Path(file.name).replace(self._folder / _name(place))
        except OSError as error:
            log.warning("a card could not be kept for the next start: %s", error)


def _name(place: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()[:32]
