"""Our kernels against plain torch in float32: no further from it than plain torch in bfloat16."""

from __future__ import annotations

import pytest
import torch

from trainer.config import ModelConfig
from trainer.device import fast_attention
from trainer.models.attention import use_rotate_kernel
from trainer.models.gpt import GPT
from trainer.models.mlp import use_relu2_kernel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a CUDA device")


def gradients(config: ModelConfig, dtype: torch.dtype, *, compiled: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model = GPT(config, dtype).cuda()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    if compiled:
        model.compile_blocks()
    tokens = torch.randint(config.vocab_size, (3, 301), device="cuda")  # rows that fill no tile
    with fast_attention(tokens.device):
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
    found = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach().float()}


OPTIONS = {"bigram_buckets": 512, "smear_gate": True, "layer_norm_scale": True, "label_smoothing": 0.1}


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(num_layers=3),
        ModelConfig(num_layers=2, num_heads=4, num_kv_heads=4),
        ModelConfig(num_layers=3, xsa_last_layers=3),
        ModelConfig(num_layers=5, xsa_last_layers=1, parallel_last_layers=2, loop_first=1, loop_blocks=2, **OPTIONS),
    ],
)
def test_loss_and_gradients_are_as_close_to_float32_as_plain_bfloat16(config):
    assert use_rotate_kernel(config, torch.bfloat16)
    assert_as_close(config)


def assert_as_close(config: ModelConfig) -> None:
    exact = gradients(config, torch.float32, compiled=False)
    plain = gradients(config, torch.bfloat16, compiled=False)
    fast = gradients(config, torch.bfloat16, compiled=True)
    for name, wanted in exact.items():
        ours, theirs = ((found[name] - wanted).norm() / wanted.norm() for found in (fast, plain))
        assert ours < max(1.5 * theirs, 2e-3), f"{name}: {ours:.1e} against {theirs:.1e}"


@pytest.mark.parametrize("activation", ["leaky_relu2", "swiglu"])
def test_options_without_a_kernel_are_as_close_when_compiled(activation):
    config = ModelConfig(num_layers=2, rope_dims=32, mlp_activation=activation, xsa_last_layers=1)
    assert not use_rotate_kernel(config, torch.bfloat16) and not use_relu2_kernel(config, torch.bfloat16)
    assert_as_close(config)


def test_shapes_that_do_not_suit_take_the_plain_path():
    assert not use_relu2_kernel(ModelConfig(model_dim=96, num_heads=2, num_kv_heads=2), torch.bfloat16)
    assert not use_rotate_kernel(ModelConfig(model_dim=96, num_heads=2, num_kv_heads=2), torch.bfloat16)
    assert not use_rotate_kernel(ModelConfig(), torch.float32)
