"""How a model is trained: rates, their schedule, averages of the weights.  Standard library only.

Defaults are those of the public parameter-golf baseline, except where a comment gives a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.values import require


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """Muon for the matrices of the blocks, Adam for the rest; rates at the peak of the schedule."""

    matrix_optimizer: Literal["muon", "adamw"] = "muon"
    """What trains the 2-D weights of the blocks. With adamw, which HelixLM was published with, momentum and
    Newton-Schulz have no meaning."""
    matrix_lr: float = 0.04
    """Step size of Muon, or of Adam, for the 2-D weights of the blocks."""
    scalar_lr: float = 0.04
    """Adam step size for gains, scales, residual mixes and skip weights."""
    embed_lr: float = 0.05
    """Adam step size for the token embedding (the baseline uses 0.05 tied, 0.6 untied)."""
    head_lr: float = 0.008
    """Adam step size for the output head; used only when it is untied."""
    matrix_weight_decay: float = 0.0
    """Decoupled decay of the matrices: p *= 1 - lr * decay before each step, with the scheduled lr."""
    adam_weight_decay: float = 0.0
    """The same for embedding and head."""
    scalar_weight_decay: float = 0.0
    """The same for gains, scales and biases. With adamw for the matrices, and rates and decays all alike, this is one
    AdamW over everything."""
    momentum: float = 0.95
    """Nesterov momentum of Muon after its warm-up."""
    momentum_start: float = 0.85
    """Momentum of Muon at the first step."""
    momentum_warmup: float = 0.04
    """Share of the budget, the smallest one of a ladder, over which momentum rises (the baseline: 500 of about 13,800
    steps)."""
    newton_schulz_steps: int = 5
    """Iterations of Muon's orthogonalisation."""
    newton_schulz: Literal["keller", "polar_express"] = "keller"
    """Its coefficients: Keller Jordan's, the same in every iteration, or those of the Polar Express (Amsel et al. 2025,
    arXiv:2505.16932), each the best for what the ones before it leave."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    grad_clip: float = 0.0
    """Largest global gradient norm; 0 turns clipping off."""
    average: Literal["off", "ema", "swa"] = "off"
    """What is scored at the end and exported: the weights of the last step, or a mean over those before it. Rungs score
    the weights that are trained whatever is chosen here, so that trials with and without an average compare."""
    ema_window: float = 0.05
    """`ema`: time constant of the exponential mean as a share of the budget; until that much has passed it is the
    plain mean of all steps. (The records' decay of 0.997 over 7,000 steps is 0.05; a fixed decay ruins short runs.)"""
    swa_below: float = 0.5
    """`swa`: the plain mean of snapshots taken in the warmdown once the rate is under this share of its peak."""
    swa_every: float = 0.01
    """`swa`: share of the budget between two snapshots (the records: 50 of about 7,000 steps)."""

    def __post_init__(self) -> None:
        for name in ("matrix_lr", "scalar_lr", "embed_lr", "head_lr", "eps"):
            value = getattr(self, name)
            require(value > 0, f"optim.{name} must be positive, got {value}")
        for name in ("matrix_weight_decay", "adam_weight_decay", "scalar_weight_decay", "grad_clip"):
            value = getattr(self, name)
            require(value >= 0, f"optim.{name} must not be negative, got {value}")
        for name in ("momentum", "momentum_start", "beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optim.{name} must be in [0, 1), got {value}")
        require(
            0 <= self.momentum_warmup <= 1,
            f"optim.momentum_warmup must be in [0, 1], got {self.momentum_warmup}",
        )
        require(
            self.newton_schulz_steps >= 1,
            f"optim.newton_schulz_steps must be at least 1, got {self.newton_schulz_steps}",
        )
        for name in ("ema_window", "swa_below"):
            value = getattr(self, name)
            require(0 < value <= 1, f"optim.{name} must be in (0, 1], got {value}")
        require(0 <= self.swa_every <= 1, f"optim.swa_every must be in [0, 1], got {self.swa_every}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Warm-up, constant trunk, linear warmdown: lengths are shares of the budget, never step counts."""

    warmup: float = 0.0
    """Share of the budget over which the rate rises linearly from 0; a share of the smallest one of a ladder."""
    warmdown: float = 0.4
    """Share of the budget over which the rate falls linearly to final_lr (ours; see decision 4)."""
    final_lr: float = 0.0
    """Rate at the end as a share of the peak."""

    def __post_init__(self) -> None:
        for name in ("warmup", "warmdown", "final_lr"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"schedule.{name} must be in [0, 1], got {value}")
        require(
            self.warmup + self.warmdown <= 1,
            f"schedule.warmup + schedule.warmdown must not exceed 1, got {self.warmup} + {self.warmdown}",
        )
