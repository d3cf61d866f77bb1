"""What is known of exponents before a study has run: ranges across the literature, natural log against natural log.

Sources: Step Law (arXiv:2503.04715), Bjorck et al. (2409.19913), Porian et al. (2406.19146), DeepSeek (2401.02954),
Power Lines (2505.13738), Malladi et al. (2205.10287), Marin's optimiser sweeps.  They contradict each other; the
deviations say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np


@dataclass(frozen=True, slots=True)
class Prior:
    """A normal belief about one exponent."""

    mean: float
    deviation: float

    def __post_init__(self) -> None:
        if not self.deviation > 0 or not np.isfinite(self.mean):
            raise ValueError(f"a prior needs a finite mean and a positive deviation, got {self}")


FLAT = Prior(0.0, 10.0)
"""No belief worth the name."""
RATE = MappingProxyType(
    {"n_params": Prior(-0.35, 0.20), "batch_tokens": Prior(0.45, 0.20), "tokens": Prior(-0.20, 0.15)}
)
"""Best learning rate: on tokens at FIXED batch; leaving the batch out turns its sign."""
RATE_MUP = MappingProxyType({**RATE, "n_params": Prior(0.0, 0.1)})
"""The same under muP or CompleteP."""
BATCH = MappingProxyType({"tokens": Prior(0.47, 0.12)})
"""Best batch on tokens."""
TAU = MappingProxyType({"tokens_per_param": Prior(-0.55, 0.15)})
"""Best AdamW timescale tau = 1 / (rate x decay x steps) on tokens per parameter."""
TAU_AT_20 = 0.17
TAU_AT_20_OCTAVES = float(np.log2(1.6))
"""Best tau at 20 tokens a parameter, and its deviation in octaves."""
PAST_BEST_BATCH = 0.1
"""Exponent of the rate on the batch beyond twice the best batch."""
SCATTER_OCTAVES = 0.25
"""How far optima lie off their law beyond what their own uncertainty explains."""

Priors = Mapping[str, Prior]


def flat(names: tuple[str, ...]) -> dict[str, Prior]:
    """No belief about any of these."""
    return dict.fromkeys(names, FLAT)
