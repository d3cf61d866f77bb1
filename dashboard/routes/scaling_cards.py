"""Cards of the scaling page as they go over the wire, each drawn once for as long as no further run has ended."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from dashboard.figures_scaling import Card
from dashboard.theme import THEMES, Theme, ThemeName
from sweeper.observations_fits import Fits
from sweeper.observations_read import FitsStore, Mark
from sweeper.observations_switches import Switches

MOST_KEPT = 200
"""Cards: some ten pages under one set of switches and one theme."""
IN_VIEW = 2
"""Cards at the top of the page: those are wanted at once."""
LATER_SECONDS = 1.5
"""Until the other ones are drawn: the reader's browser is busy with the first."""
PAUSE_SECONDS = 0.02
"""Between two cards that nobody has asked for yet, so that one that is asked for goes first."""

Draw = Callable[[Fits, Theme], Card]


class Cards:
    """Bodies of figures by study, key, switches and theme. Safe to share between threads."""

    def __init__(self, store: FitsStore, plots: Mapping[str, Draw]) -> None:
        self._store = store
        self._plots = plots
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, Switches, ThemeName], tuple[Mark, bytes]] = OrderedDict()

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
        mark, place = self._store.mark(name), (name, key, chosen, theme)
        with self._lock:
            known = self._kept.get(place)
            if known is not None and known[0] == mark:
                self._kept.move_to_end(place)
                return known[1]
        made = _body(key, self.card(name, key, chosen, theme), name)
        with self._lock:
            self._kept[place] = (mark, made)
            self._kept.move_to_end(place)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return made

    def card(self, name: str, key: str, chosen: Switches, theme: ThemeName) -> Card:
        """The card itself, drawn anew.

        Raises:
            UnknownError: there is no such study.
        """
        fits = self._store.fits(name, chosen)
        with fits.lock:
            return self._plots[key](fits, THEMES[theme])

    def prepare(self, name: str, chosen: Switches, theme: ThemeName = "light") -> None:
        """Draw every card that is not kept, in the order of the page: for when a reader has just opened it."""
        for place, key in enumerate(self._plots):
            time.sleep(LATER_SECONDS if place == IN_VIEW else PAUSE_SECONDS)
            self.body(name, key, chosen, theme)


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
