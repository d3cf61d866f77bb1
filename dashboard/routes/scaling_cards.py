"""Cards of the scaling page as they go over the wire, each drawn once for as long as no further run has ended."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from dashboard import live
from dashboard.card_files import CardFiles
from dashboard.figures_scaling import Card
from dashboard.theme import THEMES, Theme, ThemeName
from sweeper.observations_fits import Fits
from sweeper.observations_read import FitsStore, Mark
from sweeper.observations_switches import Asked, Switches

MOST_KEPT = 200
"""Cards: some ten pages under one set of switches and one theme."""
IN_VIEW = 2
"""Cards at the top of the page: those are wanted at once."""
LATER_SECONDS = 1.5
"""Until the other ones are drawn: the reader's browser is busy with the first."""
PAUSE_SECONDS = 0.02
"""Between two cards that nobody has asked for yet, so that one that is asked for goes first."""

Draw = Callable[[Fits, Theme], Card]
Place = tuple[str, str, str, str, str, ThemeName]
"""Study, figure, the switches, theme."""


class Cards:
    """Bodies of figures by study, key, switches and theme. Safe to share between threads."""

    def __init__(self, store: FitsStore, plots: Mapping[str, Draw], files: CardFiles | None = None) -> None:
        """
        Args:
            files: where cards outlive the process; nowhere unless given.
        """
        self._store = store
        self._plots = plots
        self._files = files or CardFiles(None)
        self._lock = threading.Lock()
        self._kept: OrderedDict[Place, tuple[Mark, bytes]] = OrderedDict()

    def tag(self, name: str, chosen: Switches, theme: ThemeName) -> str:
        """The ETag of a study's figures now.

        Raises:
            UnknownError: there is no such study.
        """
        return f'"{abs(hash((self._store.mark(name), chosen, theme))):x}"'

    def body(self, name: str, key: str, chosen: Switches, theme: ThemeName) -> bytes:
        """A figure and what must be known to read it, as JSON.

        Raises:
            UnknownError: there is no such study.
        """
        mark, place = self._store.mark(name), _place(name, key, chosen, theme)
        known = self._known(place)
        if known is not None and known[0] == mark:
            return known[1]
        made = _body(key, self.card(name, key, chosen, theme), name)
        self._keep(place, mark, made)
        self._files.write(place, mark, made)
        return made

    def earlier(self, name: str, key: str, chosen: Switches, theme: ThemeName) -> bytes | None:
        """The figure as it was drawn before the last runs ended, `stale` saying so; None where there is none such: it
        was never drawn, is drawn of all runs, or more has changed than that runs were added.

        Raises:
            UnknownError: there is no such study.
        """
        mark, known = self._store.mark(name), self._known(_place(name, key, chosen, theme))
        if known is None or known[0][0] >= mark[0] or known[0][-1] != mark[-1]:
            return None
        words = f"Fits of {known[0][0]:,} of {mark[0]:,} ended runs; new fits are being made."
        return b'{"stale":' + json.dumps(words).encode() + b"," + known[1][1:]

    def card(self, name: str, key: str, chosen: Switches, theme: ThemeName) -> Card:
        """The card itself, drawn anew.

        Raises:
            UnknownError: there is no such study.
        """
        fits = self._store.fits(name, chosen)
        with fits.lock:
            return self._plots[key](fits, THEMES[theme])

    def prepare(self, name: str, chosen: Switches, theme: ThemeName = "light") -> None:
        """Draw every card that is not kept, in the order of the page: for when a reader has just opened it.

        Ends early when the process is told to.
        """
        first = next(iter(self._plots))
        shown = self.earlier(name, first, chosen, theme) is not None
        for place, key in enumerate(self._plots):
            later = place == (0 if shown else IN_VIEW)
            if live.closing.wait(LATER_SECONDS if later else PAUSE_SECONDS):
                return
            self.body(name, key, chosen, theme)

    def prepare_first(self, name: str) -> None:
        """Draw the cards in view of a study of which none was drawn ever: its reader may go on to them."""
        keys, chosen = list(self._plots)[:IN_VIEW], self._store.switches(name, Asked())
        if self._known(_place(name, keys[0], chosen, "light")) is not None:
            return
        for key in keys:
            if not live.closing.wait(LATER_SECONDS if key == keys[0] else PAUSE_SECONDS):
                self.body(name, key, chosen, "light")

    def _known(self, place: Place) -> tuple[Mark, bytes] | None:
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
        found = self._files.read(place)
        if found is not None:
            self._keep(place, *found)
        return found

    def _keep(self, place: Place, mark: Mark, body: bytes) -> None:
        with self._lock:
            self._kept[place] = (mark, body)
            self._kept.move_to_end(place)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)


def _place(name: str, key: str, chosen: Switches, theme: ThemeName) -> Place:
    return name, key, chosen.params, chosen.rate, chosen.loss, theme


def _body(key: str, card: Card, study: str) -> bytes:
    body: dict[str, Any] = {
        "figures": {} if card.figure is None else {key: card.figure},
        "note": card.empty.replace("--study S", f"--study {study}"),
        "card": {
            "says": card.says,
            "used": card.used,
            "excluded": [f"{count:,} {reason}" for reason, count in card.excluded],
            "missing": card.missing,
            "method": card.method,
        },
    }
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
