"""Models small enough to compare with a few lines of mathematics in float64."""

from __future__ import annotations

import torch

from trainer.config import ModelConfig
from trainer.models.gpt import GPT

SIZES = {"vocab_size": 50, "num_layers": 4, "model_dim": 32, "num_heads": 4, "num_kv_heads": 2, "embed_init_std": 0.5}
ALL = {
    "mlp_activation": "swiglu",
    "rope_dims": 4,
    "bigram_buckets": 31,
    "bigram_dim": 8,
    "smear_gate": True,
    "separator_id": 7,
    "xsa_last_layers": 2,
    "layer_norm_scale": True,
    "loop_first": 1,
    "loop_blocks": 2,
    "parallel_last_layers": 1,
    "label_smoothing": 0.1,
}
"""Every option that changes what a model computes."""
EPS = torch.finfo(torch.float64).eps


def model_of(seed: int = 0, **options) -> GPT:
    torch.manual_seed(seed)
    return GPT(ModelConfig(**{**SIZES, **options}))


def double(module: torch.nn.Module, seed: int = 5) -> torch.nn.Module:
    """In float64, every parameter moved off its special initial value."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    if isinstance(module, GPT):
        module.dtype = torch.float64
    return module


def randn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=tolerance, atol=tolerance)
