"""A child's eye on the process that started it: when the keeper is gone, the child stops cleanly.

A launch that is killed outright (kill -9, a closed container) can tell nobody.  Its children therefore
look, once a second, whether their parent is still the process that started them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

VARIABLE = "SWEEPER_KEEPER"
"""Environment variable with the process id of the keeper; absent for processes that stand alone."""


def environment() -> dict[str, str]:
    """What a child needs in its environment to watch the calling process."""
    return {VARIABLE: str(os.getpid())}


def watch(on_loss: Callable[[], None], *, patience_seconds: float = 0.0) -> None:
    """Call `on_loss` once, from a thread, `patience_seconds` after the keeper went away.

    Does nothing without a keeper.  The variable is taken out of the environment, so that it means this
    process alone and not the children of it.
    """
    keeper = os.environ.pop(VARIABLE, "")
    if not keeper:
        return

    def look() -> None:
        while os.getppid() == int(keeper):
            time.sleep(1.0)
        time.sleep(patience_seconds)
        on_loss()

    threading.Thread(target=look, name="keeper", daemon=True).start()
