"""The model against an independent float64 reference, to the digit and to the parameter."""

from __future__ import annotations

import pytest
import torch

from tests.trainer import reference
from trainer.config import ModelConfig
from trainer.models.gpt import GPT


def shaken(model: GPT) -> GPT:
    """Move every parameter off its special initial value, so that no term hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def test_the_baseline_has_its_published_parameter_count():
    assert sum(p.numel() for p in GPT(ModelConfig()).parameters()) == 17_059_912


@pytest.mark.parametrize(("layers", "kv_heads", "tied"), [(1, 4, True), (4, 2, True), (5, 1, False)])
def test_loss_and_gradients_equal_the_float64_reference(layers, kv_heads, tied):
    torch.manual_seed(3)
    config = ModelConfig(
        vocab_size=50,
        num_layers=layers,
        model_dim=32,
        num_heads=4,
        num_kv_heads=kv_heads,
        mlp_mult=3,
        tie_embeddings=tied,
        embed_init_std=0.5,
    )
    model = shaken(GPT(config))
    tokens, targets = torch.randint(50, (2, 2, 11))
    loss = model(tokens, targets)
    loss.backward()

    doubles = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    expected = reference.loss(
        doubles,
        tokens,
        targets,
        layers=layers,
        heads=4,
        kv_heads=kv_heads,
        eps=torch.finfo(torch.float32).eps,
    )
    expected.backward()

    assert abs(loss.item() - expected.item()) / expected.item() < 1e-5
    for name, parameter in model.named_parameters():
        wanted = doubles[name].grad
        if wanted is None or wanted.norm() == 0:  # skip_weights of a single block, which nothing uses
            assert parameter.numel() == 0 or parameter.grad is None
            continue
        error = (parameter.grad.double() - wanted).norm() / wanted.norm()
        assert error < 1e-5, f"{name}: relative error {error:.1e}"


def test_a_later_token_changes_no_earlier_loss():
    torch.manual_seed(0)
    model = shaken(GPT(ModelConfig(vocab_size=50, num_layers=3, model_dim=32, num_heads=4, num_kv_heads=2)))
    tokens, targets = torch.randint(50, (2, 1, 12))
    prefix = model(tokens[:, :8], targets[:, :8])
    per_position = [model(tokens[:, : t + 1], targets[:, : t + 1]) * (t + 1) for t in (6, 7)]
    changed = tokens.clone()
    changed[0, 8:] = (changed[0, 8:] + 1) % 50
    last = [model(changed[:, : t + 1], targets[:, : t + 1]) * (t + 1) for t in (6, 7)]

    assert prefix.item() == model(changed[:, :8], targets[:, :8]).item()
    assert [a.item() for a in per_position] == [a.item() for a in last]
    whole, altered = model(tokens, targets), model(changed, targets)
    assert whole.item() != altered.item()


def test_initialisation_depends_on_the_seed_alone():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return GPT(ModelConfig(num_layers=2, model_dim=32, num_heads=4, num_kv_heads=2)).blocks[1].mlp.fc.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
