"""Waiting for something that another thread or process does."""

import time


def until(condition, what, seconds=30.0):
    """The first true value of `condition()`; fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)
    return value
