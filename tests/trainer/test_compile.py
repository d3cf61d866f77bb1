"""What a study sweeps must not compile anew.  Graphs are counted; the backend makes no code of them."""

from __future__ import annotations

import pytest
import torch

from trainer import device
from trainer.config import ModelConfig
from trainer.evaluate import evaluating
from trainer.models.gpt import GPT

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns itself on the way, and stumbles when that raises


def graphs_of(vocab_size: int, depth: int, *, batch: int = 2, validate: bool = True, seed: int = 0) -> int:
    """New graphs for a training pass and a validation pass of a fresh model."""
    before = device.compiled()["compiled_graphs"]
    torch.manual_seed(seed)
    model = GPT(ModelConfig(vocab_size=vocab_size, num_layers=depth, model_dim=32, num_heads=2, num_kv_heads=1))
    model.compile_blocks(backend="eager")
    tokens = torch.randint(vocab_size, (batch, 9))
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    if validate:
        with evaluating(model):
            assert not model(tokens[:, :-1], tokens[:, 1:], per_sequence=True).requires_grad
    return device.compiled()["compiled_graphs"] - before


@pytest.fixture(autouse=True)
def _forget_graphs():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("vocab_size", [50, 9_000])
def test_depth_and_seed_compile_nothing(vocab_size):
    assert graphs_of(vocab_size, 7) == 4
    assert [graphs_of(vocab_size, depth, seed=depth) for depth in (7, 6, 4, 2, 1)] == [0] * 5
    assert device.compiled()["graph_breaks"] == 0


def test_more_shapes_than_the_default_limit_are_all_compiled():
    assert [graphs_of(50, 1, batch=batch, validate=False) for batch in range(1, 10)] == [2] * 9
