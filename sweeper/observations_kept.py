"""Fits that are kept by what went into them, so that a run that ends costs the fit of its own cell alone."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sweeper.scaling.optimum import Optimum, fit_optimum
from sweeper.scaling.records import Observations

DRAWS = 400
"""Bootstrap draws of a fit of a page: intervals are then known to a few percent of their width."""
MOST_KEPT = 2_000
FEWEST_JOINT = 8
"""Runs with decay from which rate and tau are fitted together."""
DECAY_OCTAVES = 0.3
"""By which decay must vary for its effect to be told."""

T = TypeVar("T")


class Kept:
    """Fits by all that went into them: when a run ends, only its own cell is fitted anew.  Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[bytes, Any] = OrderedDict()

    def get(self, what: str, columns: Iterable[NDArray[Any]], make: Callable[[], T]) -> T:
        """What `make` gives, or gave for equal columns.

        Args:
            what: the fit and its options.
        """
        digest = hashlib.blake2b(what.encode(), digest_size=16)
        for column in columns:
            digest.update(len(column).to_bytes(8, "little") + np.ascontiguousarray(column).tobytes())
        key = digest.digest()
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                known: T = self._made[key]
                return known
        made = make()
        with self._lock:
            self._made[key] = made
            while len(self._made) > MOST_KEPT:
                self._made.popitem(last=False)
        return made


def best_rate(part: Observations) -> tuple[Optimum, bool]:
    """The best rate of a cell, and whether tau was fitted with it, as it is where it varies and the runs hold both."""
    taus = part.tau[np.isfinite(part.tau) & ~part.diverged]
    if len(taus) >= FEWEST_JOINT and np.ptp(np.log2(part.weight_decay[part.weight_decay > 0])) > DECAY_OCTAVES:
        both = fit_optimum(part, ("learning_rate", "tau"), draws=DRAWS)
        if both.at:
            return both, True
    return fit_optimum(part, draws=DRAWS), False
