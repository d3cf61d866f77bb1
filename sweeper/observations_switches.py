"""Conventions of the fits, and how each is worded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ParamsCount = Literal["non_embedding", "all", "matrices"]
RateConvention = Literal["as_given", "adamw"]
LossSource = Literal["judged", "streamed"]

PARAMS_WORDS: dict[ParamsCount, str] = {
    "non_embedding": "without embedding, head and hash tables",
    "all": "all weights",
    "matrices": "2-D weights alone, without embedding, head and hash tables",
}
RATE_WORDS: dict[RateConvention, str] = {
    "as_given": "peak matrix_lr as given",
    "adamw": "peak matrix_lr as the AdamW rate of equal update size, of Muon matrix_lr / (0.2 √width)",
}
LOSS_WORDS: dict[LossSource, str] = {
    "judged": "the score that the study judges by",
    "streamed": "the last streamed validation of complete runs",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a reader wants of the switches."""

    params: ParamsCount | None = None
    """None for the one in which the study's runs are known."""
    rate: RateConvention = "as_given"
    loss: LossSource = "judged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """Conventions of which there is no right one; every figure names those it used."""

    params: ParamsCount = "non_embedding"
    rate: RateConvention = "as_given"
    loss: LossSource = "judged"
