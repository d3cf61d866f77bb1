"""HelixLM through the trainer: configs, optimisers, graphs, whole runs, resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer import accumulate, checkpoint, device, events, helix_sizes
from trainer.config import ConfigError, OptimConfig, TrainConfig, config_paths
from trainer.distributed import ALONE
from trainer.evaluate import evaluating
from trainer.helix_config import HelixConfig
from trainer.loop import train
from trainer.models.build import build
from trainer.models.gpt import GPT
from trainer.models.helix import Helix
from trainer.optim import Optimizers

SMALL = {"d_model": 32, "num_heads": 4, "linear_feature_dim": 8, "num_loops": 3}


@pytest.fixture
def helix(values: dict[str, Any]) -> dict[str, Any]:
    values["model"] = {"family": "helix", "vocab_size": 64}
    values["helix"] = dict(SMALL)
    values["optim"] = {"matrix_optimizer": "adamw", "matrix_lr": 5e-3, "scalar_lr": 5e-3, "embed_lr": 5e-3}
    return values


def run(values: dict[str, Any], stop_after_step: int | None = None) -> list[events.Event]:
    said: list[events.Event] = []

    def should_stop() -> bool:
        return stop_after_step is not None and any(
            isinstance(event, events.Step) and event.step >= stop_after_step for event in said
        )

    train(TrainConfig.from_dict(values), said.append, should_stop)
    return said


def only(said: list[events.Event], kind: type) -> list[Any]:
    return [event for event in said if isinstance(event, kind)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"helix": {"d_model": 512}}, "helix.d_model would have no effect on a model.family of 'gpt'"),
        ({"seeds": {"topology": 7}}, "seeds.topology would have no effect"),
        ({"seeds": {"topology": -1}}, "seeds.topology must be in [0, 4294967295], got -1"),
        (
            {"model": {"family": "helix", "num_layers": 4, "mlp_mult": 3}},
            "model.num_layers, model.mlp_mult would have no effect on a model.family of 'helix'; remove them",
        ),
        ({"model": {"family": "helix"}, "export": {"scheme": "int6_int8"}}, "a helix has none"),
        ({"model": {"family": "helix"}, "export": {"scheme": "int8", "prune": 0.1}}, "export.prune to 0"),
        ({"model": {"family": "mamba"}}, "model.family must be one of 'gpt', 'helix', got 'mamba'"),
        ({"helix": {"titans_memory": True}}, "sees the tokens it should predict"),
        ({"helix": {"ssm": True}}, "helix.ssm is true, but state space nodes are not implemented"),
        ({"helix": {"num_heads": 3}}, "helix.d_model (1024) must be a multiple of helix.num_heads (3)"),
        ({"helix": {"d_model": 6, "num_heads": 2, "rope": True}}, "even head width, got d_model / num_heads = 6 / 2"),
        ({"helix": {"num_loops": 0}}, "helix.num_loops must be at least 1, got 0"),
        ({"helix": {"lateral_p": 1.5}}, "helix.lateral_p must be in [0, 1], got 1.5"),
        ({"helix": {"dropout": 1}}, "helix.dropout must be in [0, 1), got 1"),
        ({"helix": {"lti_init_a": 1.0}}, "helix.lti_init_a must be in (0, 1), got 1.0"),
        ({"helix": {"act_threshold": 0}}, "helix.act_threshold must be in (0, 1], got 0"),
        ({"helix": {"ffn_multiple": 0.0001}}, "helix.ffn_multiple"),
        ({"optim": {"scalar_weight_decay": -1}}, "optim.scalar_weight_decay must not be negative"),
    ],
)
def test_what_cannot_work_or_would_do_nothing_is_named(values, message):
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(values)
    assert message in str(caught.value)


def test_a_config_names_its_family_and_its_paths():
    assert isinstance(build(TrainConfig.from_dict({"model": {"num_layers": 1}})), GPT)
    config = TrainConfig.from_dict({"model": {"family": "helix", "vocab_size": 64}, "helix": SMALL})
    assert isinstance(build(config), Helix)
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert config_paths()["helix.ffn_multiple"] is float and config_paths()["seeds.topology"] is int


def test_a_run_learns_and_says_what_it_trained(helix):
    helix["budget"] = {"steps": 60}
    said = run(helix)
    start, outcome = said[0], only(said, events.Outcome)[0]
    assert said[-1].reason == "complete", said[-1]
    assert outcome.val_loss < 0.75 * only(said, events.Step)[0].train_loss
    assert start.parameters == start.model["tied_total"] > start.model["body"] > start.model["nodes"]
    assert start.model == helix_sizes.report(HelixConfig(**SMALL), 64, 42, 16)
    assert events.decode(events.encode(start)) == start
    told = [notice.message for notice in only(said, events.Notice)]
    assert [message[: message.index(":")] for message in told] == [
        f"at {share} of the budget" for share in ("25%", "50%", "100%")
    ]
    shares = [float(share) for share in told[-1].rpartition(": ")[2].split(", ")]
    assert len(shares) == 3 and sum(shares) == pytest.approx(1, abs=2e-3)


def test_a_curve_is_a_function_of_the_seeds_dropout_and_warm_up_included(helix):
    def losses() -> list[float]:
        return [step.train_loss for step in only(run(helix), events.Step)]

    helix["helix"]["num_loops"] = 2  # a shape that this process has not warmed up for
    first = losses()
    assert first == losses()
    helix["helix"]["dropout"] = 0.0
    assert first != losses()


@pytest.mark.parametrize(
    "optim", [{"matrix_optimizer": "muon"}, {"average": "ema", "scalar_weight_decay": 0.05, "grad_clip": 1.0}], ids=str
)
def test_a_resumed_run_is_the_unbroken_run_bit_for_bit(helix, tmp_path, optim):
    helix["optim"] |= optim
    helix["checkpoint"] = {"path": str(tmp_path / "unbroken")}
    unbroken = run(helix)
    helix["checkpoint"] = {"path": str(tmp_path / "broken")}
    parts = [run(helix, stop_after_step=2), run(helix, stop_after_step=7), run(helix)]

    assert [part[0].resumed_step for part in parts] == [0, 2, 7]
    steps = {step.step: step.train_loss for part in parts for step in only(part, events.Step)}
    assert steps == {step.step: step.train_loss for step in only(unbroken, events.Step)}
    assert only(parts[-1], events.Outcome)[0].val_loss == only(unbroken, events.Outcome)[0].val_loss
    config = TrainConfig.from_dict(helix).to_dict()
    states = [checkpoint.load(tmp_path / name, torch.device("cpu"), config) for name in ("unbroken", "broken")]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name


def test_a_checkpoint_of_another_graph_is_refused(helix, tmp_path):
    helix["checkpoint"] = {"path": str(tmp_path)}
    run(helix, stop_after_step=2)
    for part, key, value in (("helix", "z_norm", "standard"), ("seeds", "topology", 7)):
        other = helix | {part: helix.get(part, {}) | {key: value}}
        failure = run(other)[-1]
        assert failure.reason == "checkpoint" and f"{part}.{key}" in failure.message


def test_rounding_in_training_and_the_artifact_work_for_it(helix):
    helix["export"] = {"scheme": "int8", "qat_from": 0.5}
    helix["helix"] |= {"d_model": 256, "num_loops": 1}
    helix["budget"] = {"steps": 2}
    said = run(helix)
    assert said[-1].reason == "complete"
    assert only(said, events.Export)[0].artifact_bytes > 0 and only(said, events.Score)[0].name == "quantised"


def test_one_adamw_over_everything_can_be_said():
    config = OptimConfig(
        matrix_optimizer="adamw", matrix_lr=2e-3, scalar_lr=2e-3, embed_lr=2e-3, head_lr=2e-3,
        matrix_weight_decay=0.05, adam_weight_decay=0.05, scalar_weight_decay=0.05, beta2=0.999,
    )  # fmt: skip
    torch.manual_seed(0)
    model, twin = (Helix(HelixConfig(**SMALL, dropout=0.0), 64, 42) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    ours = Optimizers(model, config)
    single = torch.optim.AdamW(twin.parameters(), lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05)
    for factor in (1.0, 0.5):
        tokens, targets = torch.randint(64, (2, 2, 9))
        model(tokens, targets).backward()
        twin(tokens, targets).backward()
        ours.step(lr_factor=factor, momentum=0.0)
        single.param_groups[0]["lr"] = 2e-3 * factor
        single.step()
        single.zero_grad()
    for (name, parameter), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7, msg=name)


def test_never_trained_parameters_stay_as_they_were_drawn():
    torch.manual_seed(0)
    model = Helix(HelixConfig(**SMALL), 64, 42)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizers = Optimizers(model, OptimConfig(matrix_weight_decay=0.1, scalar_weight_decay=0.1))
    model(*torch.randint(64, (2, 2, 9))).backward()
    optimizers.step(lr_factor=1.0, momentum=0.9)
    same = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert same == helix_sizes.never_trained(model.config, 64, 42)


def test_the_first_guess_at_a_micro_batch_knows_the_family(monkeypatch):
    monkeypatch.setattr(accumulate, "memory_bytes", lambda _: 139 * 2.0**30)
    config = TrainConfig.from_dict({"model": {"family": "helix", "vocab_size": 50_257}})
    sequences = accumulate.largest_micro_sequences(config, torch.device("cuda"))
    assert 100 < sequences < 400 and accumulate.sequences_a_rank(config, ALONE) == 512


def passes(values: dict[str, Any], seed: int, backend: str | None) -> tuple[int, float, list[torch.Tensor]]:
    """New graphs of a training and a validation pass of a fresh model; its loss and gradients."""
    before = device.compiled()["compiled_graphs"]
    config = TrainConfig.from_dict({"model": {"family": "helix", "vocab_size": 50} | values.get("model", {})} | {
        "helix": SMALL | values["helix"], "seeds": values.get("seeds", {})
    })  # fmt: skip
    torch.manual_seed(seed)
    model = build(config)
    if backend:
        model.compile_blocks(backend)
    tokens, targets = torch.randint(50, (2, 2, 9))
    loss = model(tokens, targets)
    loss.backward()
    with evaluating(model):
        assert not model(tokens, targets, per_token=True).requires_grad
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return device.compiled()["compiled_graphs"] - before, loss.item(), gradients


@pytest.fixture
def _forget_graphs():
    yield
    torch._dynamo.reset()


# A loop, the read-out, training loss, validation loss; with dropout a validation has loop and read-out of its own.
@pytest.mark.filterwarnings("ignore")  # torch warns itself on the way, and stumbles when that raises
@pytest.mark.usefixtures("_forget_graphs")
@pytest.mark.parametrize(
    ("graphs", "values", "swept"),
    [
        (4, {"dropout": 0.0}, {"lti_init_a": 0.5}),
        (6, {"dropout": 0.1}, {"dropout": 0.2}),
        (4, {"dropout": 0.0}, {"act_threshold": 0.5}),
        (4, {"dropout": 0.0, "attention": "full", "rope": True}, {}),
        (4, {"dropout": 0.0, "root_bypass": False, "z_norm": "standard", "merge_norm": True, "act": "off"}, {}),
    ],
    ids=str,
)
def test_values_and_seeds_compile_nothing(graphs, values, swept):
    assert passes({"helix": values}, 0, "eager")[0] == graphs
    assert [passes({"helix": values | swept}, seed, "eager")[0] for seed in (1, 2)] == [0, 0]
    assert device.compiled()["graph_breaks"] == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_forget_graphs")
def test_another_count_of_loops_compiles_the_read_out_alone():
    assert passes({"helix": {"dropout": 0.0}}, 0, "eager")[0] == 4
    assert passes({"helix": {"dropout": 0.0, "num_loops": 5}}, 0, "eager")[0] == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_forget_graphs")
@pytest.mark.parametrize("vocab_size", [50, 9_000])
def test_compiled_it_is_the_same_model(vocab_size):
    values = {"model": {"vocab_size": vocab_size}, "helix": {"dropout": 0.0, "attention": "linear"}}
    _, loss, gradients = passes(values, 3, "aot_eager")
    _, expected, wanted = passes(values, 3, None)
    assert loss == pytest.approx(expected, rel=1e-6)
    for gradient, right in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-7)


def test_samples_do_not_hide_what_the_validation_found_inside(helix):
    helix["eval"] = {**helix.get("eval", {}), "fractions": [0.5], "sample_tokens": 3}

    said = run(helix)

    assert len(only(said, events.Sample)) >= 4
    assert [notice.message for notice in only(said, events.Notice) if "share of each loop" in notice.message] != []
