"""Settings from the environment."""

from __future__ import annotations

import pytest

from sweeper.errors import SweeperError
from sweeper.settings import Settings


def test_lease_seconds_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWEEPER_LEASE_SECONDS", raising=False)
    assert Settings.from_environment().lease_seconds == 60
    monkeypatch.setenv("SWEEPER_LEASE_SECONDS", "2.5")
    assert Settings.from_environment().lease_seconds == 2.5


@pytest.mark.parametrize("text", ["soon", "", "0", "-5", "nan", "inf"])
def test_impossible_lease_seconds_are_refused_in_words(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SWEEPER_LEASE_SECONDS", text)
    with pytest.raises(SweeperError, match=f"SWEEPER_LEASE_SECONDS must be a positive number.*got {text!r}.*unset"):
        Settings.from_environment()
