"""Where things are: read once from the environment, so that every process of a launch agrees."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import SweeperError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Paths and addresses of one installation."""

    home: Path
    """SWEEPER_HOME, default `.sweeper` in the current folder: database, prepared data, checkpoints, logs."""
    storage: str
    """SWEEPER_STORAGE, a SQLAlchemy URL; default SQLite in `home`."""
    lease_seconds: float = 60.0
    """SWEEPER_LEASE_SECONDS: silence after which a worker counts as lost and its run is repeated."""

    @staticmethod
    def from_environment() -> Settings:
        """
        Raises:
            SweeperError: SWEEPER_LEASE_SECONDS is no positive number.
        """
        home = Path(os.environ.get("SWEEPER_HOME", ".sweeper")).absolute()
        storage = os.environ.get("SWEEPER_STORAGE") or f"sqlite:///{home / 'sweeper.db'}"
        return Settings(
            home=home,
            storage=storage,
            lease_seconds=_lease_seconds(os.environ.get("SWEEPER_LEASE_SECONDS", "60")),
        )

    def environment(self) -> dict[str, str]:
        """The variables that make a child process read these same settings."""
        return {
            "SWEEPER_HOME": str(self.home),
            "SWEEPER_STORAGE": self.storage,
            "SWEEPER_LEASE_SECONDS": str(self.lease_seconds),
        }


def _lease_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise SweeperError(
            f"SWEEPER_LEASE_SECONDS must be a positive number of seconds such as 60, got {text!r}; "
            f"correct it, or unset it for 60"
        )
    return seconds
