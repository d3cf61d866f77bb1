"""The size of an artifact before a trial runs: shapes as the model has them, and bounds that hold."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from sweeper import artifact, control
from tests.sweeper import talk
from trainer.config import ModelConfig, TrainConfig
from trainer.models.gpt import GPT


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads, group, half = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(6, 9))
    return {
        "vocab_size": draw(st.integers(1, 300)),
        "num_layers": draw(st.integers(1, 5)),
        "num_heads": kv_heads * group,
        "num_kv_heads": kv_heads,
        "model_dim": kv_heads * group * half * 2,
        "mlp_mult": draw(st.sampled_from([1, 2, 3, 4])),
        "mlp_activation": draw(st.sampled_from(["relu2", "swiglu"])),
        "tie_embeddings": draw(st.booleans()),
        "bigram_buckets": draw(st.sampled_from([0, 2, 9])),
        "bigram_dim": draw(st.integers(1, 9)),
        "smear_gate": draw(st.booleans()),
        "parallel_last_layers": draw(st.integers(0, 3)),
        "loop_blocks": draw(st.integers(0, 1)),
    }


@given(models())
@settings(max_examples=40, deadline=None)
def test_shapes_are_those_of_the_model(values: dict[str, Any]) -> None:
    config = ModelConfig(**values)
    made = {name: tuple(weight.shape) for name, weight in GPT(config).named_parameters()}
    assert artifact.shapes(config) == made


def test_a_helix_is_counted_as_it_is_built() -> None:
    values = {"model": {"family": "helix", "vocab_size": 50_257}, "export": {"scheme": "int8"}}
    size = artifact.estimate(TrainConfig.from_dict(values).to_dict())
    assert size.parameters == 86_302_726 and size.packed > 86_302_726


def test_the_baseline_has_its_parameters_and_about_its_size() -> None:
    config = TrainConfig.from_dict({"export": {"scheme": "int8"}}).to_dict()
    size = artifact.estimate(config)
    assert size.parameters == 17_059_912
    assert 17.0e6 < size.packed < 17.3e6
    assert 0.9 < 15_815_847 / size.packed < artifact.RATIOS[1], "the published artifact, without its code"


@given(models(), st.sampled_from(["int8", "int6_int8"]), st.integers(1, 10**7))
@settings(max_examples=60, deadline=None)
def test_a_limit_is_never_both_kept_and_broken(values: dict[str, Any], scheme: str, limit: int) -> None:
    size = artifact.estimate(TrainConfig.from_dict({"model": values, "export": {"scheme": scheme}}).to_dict())
    assert not (size.keeps(limit) and size.breaks(limit))
    assert size.keeps(size.most) and not size.keeps(size.most - 1)
    assert 0 < size.packed <= size.most


SPEC = talk.SPEC | {
    "base": {"export": {"scheme": "int8"}, "data": {"batch_tokens": 1024}},
    "space": {"optim.matrix_lr": {"log": [0.01, 0.1]}, "model.num_layers": {"int": [5, 11], "step": 3}},
}


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (30_000_000, "limit of 30.00 MB: every trial keeps it"),
        (16_000_000, "sure to be kept up to num_layers 8; training decides the rest"),
        (10_000_000, "sure to be kept up to num_layers 5; sure to be broken from num_layers 11 on; training decides"),
        (9_000_000, "sure to be broken from num_layers 11 on; training decides the rest"),
        (1_000_000, "every trial will break it"),
    ],
)
def test_launch_says_which_corner_breaks_the_limit(limit: int, words: str) -> None:
    told = artifact.lines(control.parse_spec(SPEC | {"constraints": {"artifact_bytes": limit}}))
    assert len(told) == 2
    assert "(num_layers 5) to" in told[0] and "(num_layers 11) packed" in told[0]
    assert words in told[1]


def test_nothing_is_said_without_a_limit() -> None:
    assert artifact.lines(control.parse_spec(SPEC)) == []
