"""Which steps of a run become Step events."""

from __future__ import annotations

from trainer.clock import Clock, Moment

MOST_STEP_EVENTS = 400
LONGEST_SILENCE_SECONDS = 30.0
"""A run too long for that count still says a word this often: who listens takes silence for a hang."""


class Curve:
    """Decides which steps become Step events: not too close in seconds, nor too far."""

    def __init__(self, every_seconds: float) -> None:
        self._every_seconds = every_seconds
        self._last = Moment(0, 0, 0.0, 0.0)

    def begin(self, clock: Clock) -> None:
        """Measure from the clock's present state on."""
        self._last = clock.done

    def due(self, clock: Clock) -> float | None:
        """Tokens per second since the last Step event if another is due now, for the latest step done, else None."""
        now, last = clock.done, self._last
        seconds = now.seconds - last.seconds
        enough = seconds >= self._every_seconds and now.progress - last.progress >= 1 / MOST_STEP_EVENTS
        enough = enough or seconds >= LONGEST_SILENCE_SECONDS
        if seconds <= 0 or now.tokens == last.tokens or not (enough or clock.exhausted or last.tokens == 0):
            return None
        self._last = now
        return (now.tokens - last.tokens) / seconds
