"""Which score of a run ranks it, in which words, and what its config must ask for to have one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Judge = Literal["final", "streamed", "sliding", "quantised", "quantised_sliding"]
"""`final` is the Outcome; `streamed` the validation at the end of the budget, on the tokens of the rungs; the others
are the Scores of these names."""

ORIGIN = "import"
"""Section of the config of a run that was made elsewhere and did not bring a whole one: it says the unit of its scores
and what its parameters count."""
NO_SCHEME = (None, "off")
"""Values of export.scheme that export nothing."""


@dataclass(frozen=True, slots=True)
class ScoreUnit:
    """What the scores of a study count, and how that is called wherever one is shown.

    Columns of the database and of exports are called val_bpb whatever they hold.
    """

    metric: Literal["val_bpb", "val_loss"]
    words: Literal["bits per byte", "nats per token"]
    suffix: Literal["", " nats per token"] = ""
    """Behind a value in one line with the metric, whose name may not tell the unit."""

    @property
    def title(self) -> str:
        """Such as `val_bpb (bits per byte)`, for an axis."""
        return f"{self.metric} ({self.words})"

    @property
    def name(self) -> str:
        """`val_bpb`, which says its unit itself, or `val_loss, nats per token`: for a heading."""
        return f"{self.metric},{self.suffix}" if self.suffix else self.metric

    def label(self, judge: str) -> str:
        """Such as `quantised sliding val_bpb`: before a value, and the suffix behind it."""
        return label(judge, self.metric)

    def heading(self, judge: str) -> str:
        """Such as `final val_bpb`, `final val_loss, nats per token`: for axes, tiles and columns."""
        return label(judge, self.name)


BITS_PER_BYTE = ScoreUnit("val_bpb", "bits per byte")
NATS_PER_TOKEN = ScoreUnit("val_loss", "nats per token", " nats per token")
UNITS: dict[str, ScoreUnit] = {unit.words: unit for unit in (BITS_PER_BYTE, NATS_PER_TOKEN)}


def label(judge: str, metric: str) -> str:
    """ScoreUnit.label, for readers that have the unit as JSON."""
    return f"{judge.replace('_', ' ')} {metric}"


def exports(config: Mapping[str, Any]) -> bool:
    """Whether a run of this config, given as nested values, makes an artifact."""
    return config.get("export", {}).get("scheme") not in NO_SCHEME


def missing(judge: Judge, limits: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Why a run of this config, given as nested values, ends without what the study judges it by; else empty."""
    if judge.startswith("quantised") and not exports(config):
        return f'judge = "{judge}" needs an artifact to score: set export.scheme in base'
    stride = config.get("eval", {}).get("stride") or 0
    if judge.endswith("sliding") and stride <= 0:
        return f'judge = "{judge}" needs overlapping windows: set eval.stride in base above 0, got {stride}'
    if limits.get("artifact_bytes") is not None and not exports(config):
        return "constraints.artifact_bytes needs an artifact to weigh: set export.scheme in base"
    return ""
