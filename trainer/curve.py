"""Which steps of a run become Step events."""

from __future__ import annotations

from trainer.clock import Clock

MOST_STEP_EVENTS = 400
LONGEST_SILENCE_SECONDS = 30.0
"""A run too long for that count still says a word this often: who listens takes silence for a hang."""


class Curve:
    """Decides which steps become Step events: not too close in seconds, nor too far."""

    def __init__(self, every_seconds: float) -> None:
        self._every_seconds = every_seconds
        self._seconds = 0.0
        self._tokens = 0
        self._progress = 0.0

    def begin(self, clock: Clock) -> None:
        """Measure from the clock's present state on."""
        self._seconds, self._tokens, self._progress = clock.seconds, clock.tokens, clock.progress

    def due(self, clock: Clock) -> float | None:
        """Tokens per second since the last Step event if another is due now, else None."""
        seconds = clock.seconds - self._seconds
        enough = seconds >= self._every_seconds and clock.progress - self._progress >= 1 / MOST_STEP_EVENTS
        enough = enough or seconds >= LONGEST_SILENCE_SECONDS
        if seconds <= 0 or clock.tokens == self._tokens or not (enough or clock.exhausted or self._tokens == 0):
            return None
        rate = (clock.tokens - self._tokens) / seconds
        self.begin(clock)
        return rate
