"""What a study sweeps must not compile anew.  Graphs are counted; the backend makes no code of them."""

from __future__ import annotations

import pytest
import torch

from trainer import device
from trainer.config import ModelConfig
from trainer.evaluate import evaluating
from trainer.generate import Samples
from trainer.models.gpt import GPT

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns itself on the way, and stumbles when that raises


def graphs_of(vocab_size: int, depth: int, *, batch: int = 2, validate: bool = True, seed: int = 0, **options) -> int:
    """New graphs for a training pass and a validation pass of a fresh model."""
    before = device.compiled()["compiled_graphs"]
    torch.manual_seed(seed)
    sizes = {"vocab_size": vocab_size, "num_layers": depth, "model_dim": 32, "num_heads": 2, "num_kv_heads": 1}
    model = GPT(ModelConfig(**sizes, **options))
    model.compile_blocks(backend="eager")
    tokens = torch.randint(vocab_size, (batch, 9))
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    if validate:
        with evaluating(model):
            assert not model(tokens[:, :-1], tokens[:, 1:], per_token=True).requires_grad
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


# The baseline has four: blocks with and without a skip, training loss, validation loss.
@pytest.mark.parametrize(
    ("graphs", "options"),
    [
        (4, {"tie_embeddings": False, "mlp_activation": "leaky_relu2"}),
        (4, {"mlp_activation": "swiglu", "rope_dims": 4}),
        (4, {"layer_norm_scale": True}),
        (4, {"loop_blocks": 2, "loop_times": 3}),
        (4, {"embed_init": "overtone", "linear_init": "orthogonal_projections", "resid_mix_init": "phase"}),
        (5, {"bigram_buckets": 31}),
        (5, {"smear_gate": True, "separator_id": 7}),
        (5, {"bigram_buckets": 31, "bigram_dim": 8, "smear_gate": True}),
        (6, {"xsa_last_layers": 2}),
        (4, {"xsa_last_layers": 99}),
        (6, {"parallel_last_layers": 2}),
    ],
    ids=str,
)
def test_an_option_compiles_its_kinds_of_blocks_once(graphs, options):
    stem = "bigram_buckets" in options or "smear_gate" in options
    assert graphs_of(50, 7, **options) == graphs == 2 + len(ModelConfig(num_layers=7, **options).block_kinds) + stem
    assert [graphs_of(50, depth, seed=depth, **options) for depth in (7, 3)] == [0, 0]
    assert device.compiled()["graph_breaks"] == 0


@pytest.mark.parametrize("vocab_size", [50, 9_000])
def test_values_of_label_smoothing_share_a_graph(vocab_size):
    assert [graphs_of(vocab_size, 2, label_smoothing=e) for e in (0.1, 0.2, 0.01)] == [4, 0, 0]


def test_all_options_at_once_break_no_graph():
    several = {
        "mlp_activation": "swiglu", "rope_dims": 4, "bigram_buckets": 31, "smear_gate": True, "xsa_last_layers": 3,
        "layer_norm_scale": True, "loop_first": 2, "loop_blocks": 2, "parallel_last_layers": 2, "label_smoothing": 0.1,
    }  # fmt: skip
    assert graphs_of(50, 7, **several) == 3 + len(ModelConfig(num_layers=7, **several).block_kinds)
    assert graphs_of(50, 7, seed=1, **several) == 0
    assert device.compiled()["graph_breaks"] == 0


@pytest.mark.slow
def test_more_shapes_than_the_default_limit_are_all_compiled():
    assert [graphs_of(50, 1, batch=batch, validate=False) for batch in range(1, 10)] == [2] * 9


def test_samples_of_a_compiled_model_compile_nothing():
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=50, num_layers=2, model_dim=32, num_heads=2, num_kv_heads=1))
    plain = Samples([[1, 2], [3]], tokens=6, seq_len=8, seed=1).of(model, 5)
    model.compile_blocks(backend="eager")
    tokens = torch.randint(50, (2, 9))
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    before = device.compiled()

    assert Samples([[1, 2], [3]], tokens=6, seq_len=8, seed=1).of(model, 5) == plain
    assert device.compiled() == before
