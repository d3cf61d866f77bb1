"""Which weights are seen, trained and scored: rounded ones, full ones, means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.test_loop import only, run
from trainer import device, events, quantize, schedule
from trainer.config import ConfigError, ModelConfig, TrainConfig
from trainer.models.gpt import GPT
from trainer.weights import Weights, holding


def model() -> GPT:
    torch.manual_seed(0)
    made = GPT(ModelConfig(vocab_size=64, num_layers=2, model_dim=32, num_heads=4, num_kv_heads=2))
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)  # no projection is zero: all of them show
    return made


def qat(**values: Any) -> TrainConfig:
    return TrainConfig.from_dict({"export": {"scheme": "int6_int8", "qat_from": 0.5, **values}})


@pytest.mark.filterwarnings("ignore")  # torch warns itself while it compiles
@pytest.mark.parametrize("clip", ["percentile", "least_error"])
def test_a_compiled_model_sees_rounded_weights_from_the_switch_on_without_a_new_graph(clip):
    config = qat(clip=clip)
    tokens = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(1))

    def passed(model: GPT) -> tuple[float, list[Tensor]]:
        loss = model(tokens[:, :-1], tokens[:, 1:])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        return loss.item(), list(gradients)

    exported = model()
    artifact = quantize.encode(dict(exported.named_parameters()), config.export)
    held = quantize.decode(artifact.data)
    compiled = model()
    compiled.compile_blocks(backend="eager")
    weights = Weights(compiled, config)
    masters = [parameter.detach().clone() for parameter in compiled.parameters()]
    try:
        with weights.in_training(0.49):
            full_loss, _ = passed(compiled)
        before = device.compiled()
        with weights.in_training(0.5):
            for name, parameter in compiled.named_parameters():
                in_fp16 = name == "embedding.weight"  # too small for integers: left as it is
                assert torch.equal(parameter, dict(exported.named_parameters())[name] if in_fp16 else held[name]), name
            loss, gradients = passed(compiled)
        assert device.compiled() == before
    finally:
        torch._dynamo.reset()

    assert all(torch.equal(master, now) for master, now in zip(masters, compiled.parameters(), strict=True))
    held["embedding.weight"] = exported.embedding.weight.detach()
    exported.load_state_dict(held)
    expected_loss, expected = passed(exported)
    assert loss == pytest.approx(expected_loss, rel=1e-6) and abs(loss - full_loss) > 1e-5
    for found, wanted in zip(gradients, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_full_weights_come_back_from_a_pass_that_fails():
    parameter = torch.nn.Parameter(torch.randn(3))
    before = parameter.detach().clone()
    with pytest.raises(RuntimeError), holding([parameter], [torch.zeros(3)]):
        assert not parameter.any()
        raise RuntimeError
    assert torch.equal(parameter, before)


def test_rounding_in_training_makes_up_for_most_of_what_rounding_costs(values):
    values["model"] |= {"num_layers": 1, "model_dim": 192}
    values["budget"] = {"steps": 80}
    values["eval"] = {}
    values["optim"] = {"matrix_lr": 0.02, "embed_lr": 0.02, "scalar_lr": 0.02}

    def scores(qat_from: float) -> tuple[float, float]:
        # A step of 16 / 127: coarse enough to show in so small a model.
        values["export"] = {"scheme": "int8", "least_clip": 16, "qat_from": qat_from}
        said = run(values)
        return only(said, events.Outcome)[0].val_bpb, only(said, events.Score)[0].val_bpb

    full, rounded = scores(1.0)
    _, trained_for_it = scores(0.5)
    assert rounded - full > 0.02
    assert trained_for_it - full < 0.5 * (rounded - full)


def scalar(config: dict[str, Any], steps: int) -> tuple[Weights, nn.Linear, list[float]]:
    """A model of one weight whose value is the progress, after so many steps; what it was at each."""
    wanted = TrainConfig.from_dict(config)
    moving = nn.Linear(1, 1, bias=False)
    weights = Weights(moving, wanted)
    seen = []
    for step in range(steps):
        progress = (step + 0.5) / steps
        nn.init.constant_(moving.weight, progress)
        seen.append(moving.weight.item())
        weights.take_in(progress, schedule.lr_factor(wanted.schedule, progress))
    return weights, moving, seen


def mean_of(weights: Weights, moving: nn.Linear) -> float:
    with weights.in_the_end():
        return moving.weight.item()


@pytest.mark.parametrize("steps", [100, 1000, 5000])
def test_the_exponential_mean_spans_the_same_share_of_any_budget(steps):
    weights, moving, seen = scalar({"optim": {"average": "ema", "ema_window": 0.05}}, steps)
    assert mean_of(weights, moving) == pytest.approx(1 - 0.05, abs=0.006)
    assert moving.weight.item() == seen[-1]


def test_until_its_window_has_passed_the_exponential_mean_is_the_mean_of_all_steps():
    weights, moving, seen = scalar({"optim": {"average": "ema", "ema_window": 1.0}}, 40)
    assert mean_of(weights, moving) == pytest.approx(sum(seen) / 40, rel=1e-5)


def test_snapshots_are_taken_in_the_warmdown_alone_and_count_alike():
    swa = {"average": "swa", "swa_below": 0.5, "swa_every": 0.01}
    config = {"optim": swa, "schedule": {"warmup": 0.2, "warmdown": 0.4}}
    weights, moving, seen = scalar(config, 1000)
    state = weights.state()
    assert state["count"] == 20  # the rate is under half its peak for the last 0.2 of the budget
    assert mean_of(weights, moving) == pytest.approx(sum(seen[800::10]) / 20, abs=1e-5)
    few, moving, seen = scalar(config, 10)
    assert few.state()["count"] == 2 and mean_of(few, moving) == pytest.approx((seen[-1] + seen[-2]) / 2)


def test_without_a_warmdown_there_is_no_snapshot_and_the_last_weights_are_scored():
    weights, moving, seen = scalar({"optim": {"average": "swa"}, "schedule": {"warmdown": 0.0}}, 10)
    assert not weights.averaged and mean_of(weights, moving) == seen[-1]


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_averages_and_rounding_after_the_last_rung_leave_every_rung_as_it_was(values, average):
    plain = run(values)
    values["optim"] = {"average": average}
    averaged = run(values)
    assert [e.val_bpb for e in only(averaged, events.Eval)] == [e.val_bpb for e in only(plain, events.Eval)]
    assert [s.train_loss for s in only(averaged, events.Step)] == [s.train_loss for s in only(plain, events.Step)]
    assert only(averaged, events.Outcome)[0].val_bpb != only(plain, events.Outcome)[0].val_bpb


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"export": {"qat_from": 0.8}}, "export.qat_from is 0.8, but export.scheme is 'off'"),
        ({"export": {"scheme": "int8", "prune": 1.0}}, r"export.prune must be in \[0, 1\), got 1.0"),
        ({"optim": {"average": "ema", "ema_window": 0}}, r"optim.ema_window must be in \(0, 1\], got 0"),
        ({"optim": {"newton_schulz": "quick"}}, "must be one of 'keller', 'polar_express', got 'quick'"),
    ],
)
def test_what_cannot_be_meant_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_dict(values)
