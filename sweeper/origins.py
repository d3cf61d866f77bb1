"""Where a study's runs were made, and what follows for all of them: what their scores count, whether they run here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from sweeper.scores import BITS_PER_BYTE, ORIGIN, UNITS, ScoreUnit
from sweeper.tables import RunRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Of a study, as its first complete run says, else its first; importing keeps to one unit in a study."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """Of that run; empty without one."""

    @property
    def unit(self) -> ScoreUnit:
        """Of all scores."""
        section = self.config.get(ORIGIN) or {}
        return UNITS.get(section.get("score_unit", ""), BITS_PER_BYTE)

    @property
    def foreign(self) -> bool:
        """Whether its runs were made elsewhere, of configs that are not whole: sweeper's trainer cannot repeat them."""
        return ORIGIN in self.config

    @property
    def timed(self) -> bool:
        """Whether the runs were given seconds, and did not just take some."""
        return not self.foreign or bool((self.config.get("budget") or {}).get("seconds"))


def origin(connection: Connection, study_id: int) -> Origin:
    """
    Args:
        study_id: a study of no runs is one of sweeper's own.
    """
    first = select(RunRow.config).where(RunRow.study_id == study_id).order_by(RunRow.id).limit(1)
    found = connection.scalar(first.where(RunRow.state == "complete")) or connection.scalar(first)
    return Origin(config=found or {})
