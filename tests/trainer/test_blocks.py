"""What options change in and around a block, against their own mathematics."""

from __future__ import annotations

import math

import pytest
import torch

from tests.trainer import reference
from tests.trainer.small_models import EPS, SIZES, double, exact, model_of, randn
from trainer.config import ModelConfig
from trainer.models.attention import Attention
from trainer.models.block import Block, LaneBlock
from trainer.models.mlp import MLP
from trainer.models.parts import rotary_tables


def plain_attention(attention: Attention, x_TD: torch.Tensor, rotary: int, *, exclusive: bool) -> torch.Tensor:
    """Of one sequence, head by head and token by token."""
    p, width = dict(attention.named_parameters()), attention.head_dim
    heads = []
    for head in range(4):
        group = head // 2
        q, k, v = (
            x_TD @ p[f"{part}_proj.weight"][i * width : (i + 1) * width].T
            for part, i in (("q", head), ("k", group), ("v", group))
        )
        q, k = (
            torch.cat((reference.rotated(u[:, :rotary], 100.0), u[:, rotary:]), dim=1)
            for u in (reference.normed(q, EPS), reference.normed(k, EPS))
        )
        rows = []
        for t in range(len(x_TD)):
            weights = torch.softmax(k[: t + 1] @ (q[t] * p["q_gain"][head]) / math.sqrt(width), dim=0)
            y = weights @ v[: t + 1]
            rows.append(y - (y @ v[t]) / (v[t] @ v[t]) * v[t] if exclusive else y)
        heads.append(torch.stack(rows))
    return torch.cat(heads, dim=1) @ p["out_proj.weight"].T


@pytest.mark.parametrize(("rope_dims", "exclusive"), [(0, True), (4, False), (8, False), (2, True)])
def test_attention_with_partial_rope_and_without_its_own_value(rope_dims, exclusive):
    config = ModelConfig(**SIZES, rope_dims=rope_dims)
    attention = double(Attention(config, exclusive=exclusive))
    x = randn(1, 7, 32)
    cos, sin = (table.double() for table in rotary_tables(7, config.rotary_dims, 100.0, torch.device("cpu")))
    found = attention(x, torch.ones(32, dtype=torch.float64), cos, sin)
    exact(found[0], plain_attention(attention, x[0], rope_dims or 8, exclusive=exclusive), 1e-6)  # float32 tables


def test_exclusive_attention_is_for_the_last_blocks():
    assert [b.attention.exclusive for b in model_of(xsa_last_layers=1).blocks] == [False, False, False, True]
    assert all(b.attention.exclusive for b in model_of(xsa_last_layers=9).blocks)


@pytest.mark.parametrize("kind", ["relu2", "leaky_relu2", "swiglu"])
def test_the_activation_is_the_named_one(kind):
    mlp = double(MLP(ModelConfig(**SIZES, mlp_activation=kind)))
    x, scale = randn(2, 3, 32), randn(32, seed=2)
    h = x @ mlp.fc.weight.T
    if kind == "swiglu":
        gate = x @ mlp.gate.weight.T
        hidden = gate / (1 + torch.exp(-gate)) * h
    else:
        hidden = torch.maximum(h, 0.5 * h if kind == "leaky_relu2" else torch.zeros_like(h)) ** 2
    exact(mlp(x, scale), hidden @ mlp.proj.weight.T * scale)


@pytest.mark.parametrize(("width", "mult"), [(512, 2.0), (512, 2.3125), (384, 3.0), (16, 1.0)])
def test_swiglu_has_at_most_the_parameters_of_the_two_matrices(width, mult):
    two, three = (
        ModelConfig(model_dim=width, mlp_mult=mult, num_heads=4, num_kv_heads=4, mlp_activation=kind)
        for kind in ("relu2", "swiglu")
    )
    missing = 2 * width * two.mlp_hidden - 3 * width * three.mlp_hidden
    assert 0 <= missing <= 24 * width and three.mlp_hidden % 8 == 0
    assert two.mlp_hidden == width * mult


def test_deeper_blocks_read_a_smaller_norm():
    model = double(model_of(layer_norm_scale=True))
    read = []
    for i, block in enumerate(model.blocks):
        for part in (block.attention, block.mlp):
            part.register_forward_pre_hook(lambda _, given, i=i: read.append((i, given[0].square().mean(-1).sqrt())))
    tokens = torch.randint(50, (1, 6))
    model(tokens, tokens)
    assert [i for i, _ in read] == [0, 0, 1, 1, 2, 2, 3, 3]
    for i, size in read:
        exact(size, torch.full_like(size, (i + 1) ** -0.5), 1e-6)
    assert not any("norm_scale" in name for name in model.state_dict())


def test_a_loop_is_the_unrolled_model_with_shared_blocks():
    looped = model_of(num_layers=4, loop_first=1, loop_blocks=2, loop_times=2)
    assert looped.config.block_order == (0, 1, 2, 1, 2, 3)
    unrolled = model_of(num_layers=6)
    assert looped.skip_weights.shape == unrolled.skip_weights.shape == (3, 32)
    double(looped), unrolled.double()
    unrolled.dtype = torch.float64
    weights = {name: value for name, value in looped.state_dict().items() if not name.startswith("blocks.")}
    for place, block in enumerate((0, 1, 2, 1, 2, 3)):
        weights |= {f"blocks.{place}.{name}": value for name, value in looped.blocks[block].state_dict().items()}
    unrolled.load_state_dict(weights)
    tokens, targets = torch.randint(50, (2, 2, 9))
    found, expected = looped(tokens, targets), unrolled(tokens, targets)
    exact(found, expected)
    found.backward(), expected.backward()
    both = unrolled.blocks[1].mlp.fc.weight.grad + unrolled.blocks[3].mlp.fc.weight.grad
    exact(looped.blocks[1].mlp.fc.weight.grad, both)


def test_a_loop_of_once_or_of_no_blocks_is_none():
    for options in ({"loop_blocks": 2, "loop_times": 1}, {"loop_blocks": 0, "loop_times": 3}):
        assert ModelConfig(**SIZES, **options).block_order == (0, 1, 2, 3)


def test_lanes_run_attention_and_mlp_side_by_side():
    block = double(LaneBlock(ModelConfig(**SIZES), 3))
    p, q, x0, skip = (randn(1, 6, 32, seed=seed) for seed in range(4))
    weight = randn(32, seed=9)
    cos, sin = (table.double() for table in rotary_tables(6, 8, 100.0, torch.device("cpu")))
    found = block(p, q, x0, cos, sin, skip, weight)
    p = p + weight * skip
    read = reference.normed(block.resid_mix[0] * p + block.resid_mix[1] * x0, EPS)
    a = plain_attention(block.attention, read[0], 8, exclusive=False) * block.attn_scale
    h = torch.relu(reference.normed(q, EPS) @ block.mlp.fc.weight.T) ** 2
    m = h @ block.mlp.proj.weight.T * block.mlp_scale
    mix = block.lane_mix
    exact(found[0], mix[0, 0] * p + mix[0, 1] * a + mix[0, 2] * m, 1e-6)
    exact(found[1], mix[1, 0] * q + mix[1, 1] * a + mix[1, 2] * m, 1e-6)


def test_lanes_part_once_and_end_in_their_mean():
    model = double(model_of(parallel_last_layers=3))
    assert [type(block) for block in model.blocks] == [Block, LaneBlock, LaneBlock, LaneBlock]
    x0 = randn(1, 5, 32)
    tables = rotary_tables(5, 8, 10_000.0, torch.device("cpu"))
    first, *rest = model.blocks
    pushed = [first(x0, x0, *tables)]
    p, q = rest[0](pushed[0], pushed[0], x0, *tables)
    p, q = rest[1](p, q, x0, *tables, p, model.skip_weights[0])
    p, q = rest[2](p, q, x0, *tables, pushed[0], model.skip_weights[1])
    exact(model._through_blocks(x0), (p + q) / 2)


def test_lanes_meet_where_a_loop_goes_back_to_a_block_with_one():
    model = double(model_of(num_layers=2, parallel_last_layers=1, loop_blocks=2, loop_times=2))
    x0 = randn(1, 5, 32)
    tables = rotary_tables(5, 8, 10_000.0, torch.device("cpu"))
    one, two = model.blocks
    x = one(x0, x0, *tables)
    p, q = two(x, x, x0, *tables)
    y = one((p + q) / 2, x0, *tables, p, model.skip_weights[0])
    p, q = two(y, y, x0, *tables, x, model.skip_weights[1])
    exact(model._through_blocks(x0), (p + q) / 2)
