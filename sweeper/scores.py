"""Which score of a run ranks it, in which words, and what its config must ask for to have one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Judge = Literal["final", "streamed", "sliding", "quantised", "quantised_sliding"]
"""`final` is the Outcome; `streamed` the validation at the end of the budget, on the tokens of the rungs; the others
are the Scores of these names."""

NO_SCHEME = (None, "off")
"""Values of export.scheme that export nothing."""


def label(judge: str) -> str:
    """Such as `quantised sliding val_bpb`: for axes, tiles and lines that show such a score."""
    return f"{judge.replace('_', ' ')} val_bpb"


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
