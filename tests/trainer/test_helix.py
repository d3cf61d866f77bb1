"""HelixLM against its published figures and against a plain float64 reference."""

from __future__ import annotations

import pytest
import torch

from tests.trainer import helix_reference
from trainer import helix_sizes
from trainer.helix_config import HelixConfig
from trainer.helix_topology import topology_of
from trainer.models.helix import Helix
from trainer.optim import partition

SMALL = {"d_model": 16, "num_heads": 2, "linear_feature_dim": 6, "num_loops": 3, "loop_dim_ratio": 0.5, "dropout": 0.0}
VOCAB = 23


def model_of(topology: int = 42, dtype: torch.dtype = torch.float64, shake: float = 0.3, **options) -> Helix:
    """In `dtype`, every parameter moved off its special initial value, so that no term hides."""
    torch.manual_seed(0)
    model = Helix(HelixConfig(**{**SMALL, **options}), VOCAB, topology, dtype).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += shake * torch.randn(parameter.shape, dtype=torch.float64).to(dtype)
    return model


VARIANTS = [
    (42, {}),
    (42, {"attention": "linear", "num_loops": 1}),
    (42, {"attention": "full"}),
    (42, {"attention": "full", "rope": True, "rope_base": 500.0}),
    (42, {"attention": "linear", "rope": True}),
    (42, {"linear_feature_dim": 11}),
    (42, {"root_bypass": False}),
    (42, {"root_bypass": False, "attention": "linear", "z_norm": "standard", "linear_feature_dim": 8}),
    (42, {"merge_norm": True, "lti_init_a": 0.9, "embedding_scale": True}),
    (42, {"act": "off"}),
    (42, {"act": "remainder", "act_threshold": 0.7}),
    (42, {"act": "remainder", "num_loops": 1}),
    (42, {"num_columns": 3}),  # a gate drops predecessors
    (42, {"num_columns": 3, "gate_fix": True, "full_attention_interval": 2}),
    (42, {"num_columns": 1}),
    (42, {"loop_dim_ratio": 0.0, "ffn_multiple": 6.3}),
    (2, {"lateral_p": 0.0, "vertical_p": 0.5}),
    (7, {"num_columns": 3, "lateral_p": 0.0, "vertical_p": 0.3, "vertical_depth": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("topology", "options"), VARIANTS, ids=str)
def test_loss_and_gradients_equal_the_reference(topology, options):
    model = model_of(topology, **options)
    predecessors = [list(sources) for sources in topology_of(model.config, topology).predecessors]
    tokens, targets = torch.randint(VOCAB, (2, 2, 12))
    loss = model(tokens, targets)
    loss.backward()

    doubles = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    expected = helix_reference.loss(doubles, model.config, predecessors, tokens, targets)
    expected.backward()
    # The loop embedding is a float32 table, as it is in training.
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for name, parameter in model.named_parameters():
        wanted = doubles[name].grad
        if parameter.grad is None:
            assert wanted is None or wanted.abs().max() < 1e-12, name
        else:
            assert (parameter.grad - wanted).norm() <= 1e-5 * wanted.norm() + 1e-9, name


@pytest.mark.parametrize(("topology", "options"), VARIANTS, ids=str)
def test_what_is_never_trained_is_what_gets_no_gradient(topology, options):
    model = model_of(topology, **options)
    model(*torch.randint(VOCAB, (2, 2, 12))).backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert idle == helix_sizes.never_trained(model.config, VOCAB, topology)
    told = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert list(told.items()) == list(helix_sizes.helix_shapes(model.config, VOCAB, topology).items())


@pytest.mark.parametrize("attention", ["linear", "full", "hybrid"])
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("root_bypass", [False, True])
def test_a_later_token_changes_no_bit_of_an_earlier_loss(attention, rope, root_bypass):
    model = model_of(dtype=torch.float32, attention=attention, rope=rope, root_bypass=root_bypass).eval()
    tokens, targets = torch.randint(VOCAB, (2, 1, 150))
    for changed_from in (1, 100, 140):  # in the first chunk and in the second
        other = tokens.clone()
        other[:, changed_from:] = (other[:, changed_from:] + 1) % VOCAB
        before, after = (model(x, targets, per_token=True) for x in (tokens, other))
        assert torch.equal(before[:, :changed_from], after[:, :changed_from])
        assert not torch.equal(before[:, changed_from:], after[:, changed_from:])


def test_without_rope_and_one_loop_the_order_of_the_past_is_unseen_and_with_it_seen():
    def moved(**options) -> float:
        model = model_of(attention="linear", num_loops=1, **options).eval()
        tokens, targets = torch.randint(VOCAB, (2, 1, 9))
        swapped = tokens[:, [3, 1, 2, 0, 5, 4, 6, 7, 8]]
        losses = [model(x, targets, per_token=True)[0, -1].item() for x in (tokens, swapped)]
        return abs(losses[0] - losses[1])

    assert moved() < 1e-12 and moved(rope=True) > 1e-6


def test_dropout_is_for_training_alone_and_keeps_the_mean():
    torch.manual_seed(1)
    model = model_of(dropout=0.5, attention="full", root_bypass=False)
    tokens, targets = torch.randint(VOCAB, (2, 4, 12))
    assert model(tokens, targets) != model(tokens, targets)
    plain = model_of(dropout=0.0, attention="full", root_bypass=False)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(tokens, targets, True), plain.eval()(tokens, targets, True))
    dropped = model.train().recurrence.nodes[1].dropout(torch.ones(400, 500))
    assert set(dropped.unique().tolist()) == {0.0, 2.0} and abs(dropped.mean() - 1) < 0.02


def halting(readout) -> list[float]:
    states = tuple(torch.zeros(3, 1, 1, 16, dtype=torch.float64))
    return [weight.item() for weight in readout._weights(states)]


@pytest.mark.parametrize(("act", "total"), [("as_built", None), ("remainder", 1.0)])
def test_halting_weights_are_those_of_the_description(act, total):
    readout = model_of(act=act, act_threshold=0.9).readout
    with torch.no_grad():
        readout.halt_weight.zero_()
        readout.halt_bias.fill_(torch.tensor(0.4).logit())
    weights = halting(readout)
    assert weights == pytest.approx([0.4, 0.4, 0.2])  # 1.2 reaches the threshold in the third
    with torch.no_grad():
        readout.halt_bias.fill_(torch.tensor(0.1).logit())
    weights = halting(readout)
    assert weights == pytest.approx([0.1, 0.1, 0.1] if total is None else [0.1, 0.1, 0.8])


def test_loop_weights_are_shares_of_the_last_validation():
    model = model_of()
    assert model.loop_weights() == [] and model.findings() == ""
    tokens, targets = torch.randint(VOCAB, (2, 2, 12))
    model.eval()
    model(tokens, targets, True), model(tokens, targets, True)
    weights = model.loop_weights()
    assert len(weights) == 3 and sum(weights) == pytest.approx(1)
    model.train()
    model(tokens, targets)
    assert model.loop_weights() == weights and "share of each loop" in model.findings()
    off = model_of(act="off").eval()
    off(tokens, targets, True)
    assert off.loop_weights() == [0, 0, 1]


def test_every_parameter_has_one_optimiser_group():
    groups = partition(model_of(num_columns=3))
    assert [len(groups[name]) for name in ("embedding", "head")] == [1, 0]
    assert {parameter.ndim for parameter in groups["matrix"]} == {2}
    assert {parameter.ndim for parameter in groups["scalar"]} == {0, 1}


def test_initialisation_is_of_the_init_seed_and_the_graph_of_its_own():
    def built(init: int, topology: int) -> Helix:
        torch.manual_seed(init)
        return Helix(HelixConfig(**SMALL), VOCAB, topology)

    def first(model: Helix) -> torch.Tensor:
        return model.recurrence.nodes[1].gate.weight

    assert torch.equal(first(built(1, 42)), first(built(1, 42))) and not torch.equal(
        first(built(1, 42)), first(built(2, 42))
    )
    assert built(1, 42).recurrence.inputs == built(2, 42).recurrence.inputs != built(1, 43).recurrence.inputs
    model = built(1, 42)
    weights = torch.cat([parameter.flatten() for parameter in partition(model)["matrix"]])
    assert float(weights.detach().std()) == pytest.approx(0.02, rel=0.05)
    decay = torch.exp(-torch.exp(model.recurrence.log_dt + model.recurrence.log_a))
    torch.testing.assert_close(decay, torch.full_like(decay, 0.36787944))


def test_16_bits_cost_little_of_a_gradient():
    sizes = {"d_model": 64, "num_heads": 4, "linear_feature_dim": 16}
    exact, rounded = (model_of(shake=0.05, **sizes), model_of(shake=0.05, **sizes).float())
    rounded.dtype = torch.bfloat16
    tokens, targets = torch.randint(VOCAB, (2, 4, 200))
    losses = [model(tokens, targets) for model in (exact, rounded)]
    for loss in losses:
        loss.backward()
    assert losses[1].dtype == torch.float32 and losses[1].item() == pytest.approx(losses[0].item(), rel=5e-3)
    for (name, parameter), expected in zip(rounded.named_parameters(), exact.parameters(), strict=True):
        if parameter.grad is not None:
            assert (parameter.grad - expected.grad).norm() < 0.03 * expected.grad.norm(), name


def test_another_share_can_be_dropped_from_now_on():
    model, plain = (model_of(dropout=share, attention="full", root_bypass=False) for share in (0.5, 0.0))
    plain.load_state_dict(model.state_dict())
    tokens, targets = torch.randint(VOCAB, (2, 4, 12))
    model.set_dropout(0.0)
    assert torch.equal(model(tokens, targets), plain(tokens, targets))
    model.set_dropout(None)
    assert model(tokens, targets) != model(tokens, targets)
    assert {float(part.share) for part in model.modules() if hasattr(part, "share")} == {0.5}


def test_next_logits_are_those_that_the_loss_is_of():
    model = model_of().eval()
    tokens, targets = torch.randint(VOCAB, (2, 3, 12))
    losses = model(tokens, targets, per_token=True)
    for position in (0, 7, 11):
        logits = model.next_logits(tokens, position)
        expected = torch.nn.functional.cross_entropy(logits, targets[:, position], reduction="none")
        torch.testing.assert_close(losses[:, position], expected.detach())
