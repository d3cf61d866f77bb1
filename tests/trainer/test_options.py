"""All options of the model: what they add learns, in its own group, and what cannot work is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.trainer import reference
from tests.trainer.small_models import ALL, EPS, SIZES, double, exact, model_of
from trainer.config import ConfigError, ModelConfig, OptimConfig
from trainer.models.attention import use_rotate_kernel
from trainer.models.gpt import GPT
from trainer.models.mlp import use_relu2_kernel
from trainer.optim import Optimizers, partition

OPTIONS = [
    {},
    {"tie_embeddings": False},
    {"mlp_activation": "leaky_relu2"},
    {"mlp_activation": "swiglu"},
    {"rope_dims": 4},
    {"bigram_buckets": 31, "bigram_dim": 8},
    {"smear_gate": True, "separator_id": 7},
    {"xsa_last_layers": 2},
    {"layer_norm_scale": True},
    {"loop_first": 1, "loop_blocks": 2, "loop_times": 3},
    {"parallel_last_layers": 3},
    {"parallel_last_layers": 1, "loop_first": 2, "loop_blocks": 2},
    {"label_smoothing": 0.1},
    {"embed_init": "overtone", "linear_init": "orthogonal_projections", "resid_mix_init": "phase"},
    ALL,
    {**ALL, "tie_embeddings": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "none")
def test_gradients_reach_every_parameter_within_two_steps_or_three_when_untied(options):
    model = model_of(**options)
    optimizers = Optimizers(model, OptimConfig())
    reached: set[str] = set()
    for step in range(2 if model.lm_head is None else 3):  # what begins at zero holds up what lies behind
        tokens = torch.randint(50, (4, 20), generator=torch.Generator().manual_seed(step))
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        reached |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.norm() > 0}
        optimizers.step(lr_factor=1.0, momentum=0.9)
    assert reached == {name for name, _ in model.named_parameters()}
    if "bigram_buckets" in options:
        assert model.stem.bigram.table.weight.abs().sum() > 0 and model.stem.bigram.scale.item() != pytest.approx(0.05)


def test_each_new_parameter_has_its_optimiser():
    model = model_of(**ALL, tie_embeddings=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group: {names[id(p)] for p in parameters} for group, parameters in partition(model).items()}
    assert groups["embedding"] == {"embedding.weight", "stem.bigram.table.weight"}
    assert groups["head"] == {"lm_head.weight"}
    assert {"stem.bigram.projection.weight", "blocks.3.mlp.gate.weight"} <= groups["matrix"]
    assert {"stem.bigram.scale", "stem.smear_gate", "blocks.3.lane_mix", "skip_weights"} <= groups["scalar"]


@pytest.mark.parametrize("tied", [True, False])
def test_label_smoothing_is_of_the_training_loss_alone(tied):
    plain, smooth = (double(model_of(label_smoothing=e, tie_embeddings=tied)) for e in (0.0, 0.125))
    tokens, targets = torch.randint(50, (2, 2, 9))
    captured: list[torch.Tensor] = []
    plain.head.register_forward_pre_hook(lambda _, given: captured.append(given[0]))
    unsmoothed = plain(tokens, targets)
    weight = plain.embedding.weight if tied else plain.lm_head.weight
    logits = 30 * torch.tanh(reference.normed(captured[0], EPS) @ weight.T / 30)
    exact(smooth(tokens, targets), F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.125))
    exact(smooth(tokens, targets, per_token=True), plain(tokens, targets, per_token=True))
    smooth.eval()
    exact(smooth(tokens, targets), unsmoothed)
    assert "head.smoothing" not in smooth.state_dict()


@pytest.mark.parametrize(
    ("options", "rotate", "relu2"),
    [
        ({}, True, True),
        ({"rope_dims": 16}, False, True),
        ({"rope_dims": 64, "xsa_last_layers": 2, "layer_norm_scale": True, "parallel_last_layers": 2}, True, True),
        ({"mlp_activation": "leaky_relu2"}, True, False),
        ({"mlp_activation": "swiglu", "mlp_mult": 3}, True, False),
    ],
)
def test_our_kernels_are_used_where_they_compute_what_the_options_say(options, rotate, relu2, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    config = ModelConfig(**options)
    assert use_rotate_kernel(config, torch.bfloat16) == rotate
    assert use_relu2_kernel(config, torch.bfloat16) == relu2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bigram_buckets": 1}, "model.bigram_buckets must be 0 .* at least 2 .* got 1"),
        ({"bigram_dim": 0}, "model.bigram_dim must be at least 1"),
        ({"separator_id": 50}, "model.separator_id must be a token, 0 to 49, or -1 for none, got 50"),
        ({"rope_dims": 3}, "model.rope_dims must be even and at most the head width 8, got 3"),
        ({"rope_dims": 10}, "model.rope_dims .* got 10; 0 rotates all"),
        ({"xsa_last_layers": -1}, "model.xsa_last_layers must not be negative"),
        ({"parallel_last_layers": -1}, "model.parallel_last_layers must not be negative"),
        ({"loop_first": 3, "loop_blocks": 2}, "model.loop_first .* exceed model.num_layers \\(4\\), got 3 \\+ 2"),
        ({"loop_times": 0}, "model.loop_times must be at least 1, got 0"),
        ({"label_smoothing": 1.0}, "model.label_smoothing must be in \\[0, 1\\), got 1.0"),
        ({"mlp_activation": "swiglu", "mlp_mult": 0.25}, "'swiglu' has no unit left of 8 hidden ones"),
    ],
)
def test_options_that_cannot_work_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        ModelConfig(**{**SIZES, **options})


def test_models_that_differ_in_depth_alone_are_alike_at_depth_1():
    configs = [ModelConfig(**{**SIZES, **ALL, "num_layers": depth}) for depth in (4, 7)]
    assert len({dataclasses.replace(config, num_layers=1) for config in configs}) == 1
    assert GPT(dataclasses.replace(configs[0], num_layers=1)).order == (0,)
