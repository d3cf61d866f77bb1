"""The artifact for any tensors: what comes back is off by half a step at most, whatever the values."""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer import quantize
from trainer.config import ConfigError, ExportConfig, ModelConfig, packed_bytes
from trainer.export_config import forms
from trainer.models.gpt import GPT

INT6 = "blocks.0.mlp.fc.weight"
clips = st.sampled_from(["percentile", "least_error"])


@st.composite
def matrices(draw) -> Tensor:
    """Matrices with what breaks quantisers: empty rows, odd sizes, constants, denormals, zeros, outliers."""
    rows, columns = draw(st.integers(0, 9)), draw(st.integers(0, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weights = torch.randn(rows, columns, generator=generator) * 10 ** draw(st.floats(-42, 8))
    for row in range(rows):
        kind = draw(st.sampled_from(["random", "zeros", "constant", "denormal", "outlier"]))
        if kind == "zeros":
            weights[row] = 0
        elif kind == "constant":
            weights[row] = draw(st.floats(-1e6, 1e6, width=32))
        elif kind == "denormal":
            weights[row] = 1e-41
        elif kind == "outlier" and columns:
            weights[row, draw(st.integers(0, columns - 1))] = draw(st.sampled_from([1e4, -1e30, 3e38]))
    return weights


def shapes_of(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


@settings(deadline=None, max_examples=150)
@given(weight=matrices(), clip=clips, codec=st.sampled_from(["zlib", "zstd"]))
def test_six_bits_come_back_within_half_a_step_of_what_is_not_clipped(weight, clip, codec):
    config = ExportConfig(scheme="int6_int8", clip=clip, codec=codec)
    artifact = quantize.encode({INT6: weight}, config)
    found = quantize.decode(artifact.data)[INT6]

    steps = quantize.step_sizes(weight, "int6", config).double()
    largest = 31 * steps
    expected = weight.double().clamp(-largest, largest)
    assert found.shape == weight.shape and found.isfinite().all()
    assert ((found.double() - expected).abs() <= steps / 2 * (1 + 1e-5)).all()
    multiples = found.double() / steps
    assert torch.equal(multiples, multiples.round()) and (multiples.abs() <= 31).all()
    assert artifact.raw_bytes == packed_bytes({INT6: tuple(weight.shape)}, config)
    assert torch.equal(quantize.round_trip([weight], ["int6"], config)[0], found)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-6, 100), clip=clips, least=st.sampled_from([0.0, 1.0]))
def test_eight_bits_come_back_within_half_a_step(seed, scale, clip, least):
    weight = scale * torch.randn(257, 259, generator=torch.Generator().manual_seed(seed))
    config = ExportConfig(scheme="int8", clip=clip, least_clip=least)
    found = quantize.decode(quantize.encode({"embedding.weight": weight}, config).data)["embedding.weight"]
    steps = quantize.step_sizes(weight, "int8", config).double()
    largest = 127 * steps
    assert ((found - weight.double().clamp(-largest, largest)).abs() <= steps / 2 * (1 + 1e-5)).all()
    if clip == "percentile" and not least:  # no more is clipped than the percentile says: nearly nothing
        assert (found - weight).abs().max() <= weight.abs().max() / 127
    if least:
        assert (steps >= least / 127).all()


@settings(deadline=None)
@given(codes=st.lists(st.integers(-32, 31), max_size=23))
def test_four_codes_of_six_bits_take_three_bytes(codes):
    packed = quantize.pack_six(np.array(codes, dtype=np.int8))
    assert len(packed) == 3 * math.ceil(len(codes) / 4)
    assert quantize.unpack_six(packed, len(codes)).tolist() == codes


@given(columns=st.integers(1, 60), share=st.sampled_from([*quantize.SEARCHED, quantize.PERCENTILE]))
def test_the_clip_is_the_percentile_that_numpy_interpolates(columns, share):
    weights = torch.rand(3, columns, generator=torch.Generator().manual_seed(columns))
    found = quantize._percentile(weights, share)
    assert torch.allclose(found[:, 0].double(), torch.from_numpy(np.quantile(weights.double().numpy(), share, axis=1)))


def test_the_search_finds_clips_with_less_error_than_the_percentile():
    torch.manual_seed(0)
    weight = torch.distributions.StudentT(3.0).sample((64, 2048))
    config = ExportConfig(scheme="int6_int8")

    def errors_R(config: ExportConfig) -> Tensor:
        return (quantize.round_trip([weight], ["int6"], config)[0] - weight).square().mean(1)

    fixed, searched = errors_R(config), errors_R(dataclasses.replace(config, clip="least_error"))
    assert (searched <= 1.001 * fixed).all()  # the percentile lies between the two largest that are searched
    assert searched.mean() < 0.95 * fixed.mean()


@pytest.mark.parametrize("scheme", ["int8", "int6_int8"])
@pytest.mark.parametrize("fp16_embedding", [False, True])
def test_a_model_comes_back_whole_with_each_tensor_in_its_form(scheme, fp16_embedding):
    model = GPT(ModelConfig(vocab_size=1024, model_dim=128, num_heads=4, num_kv_heads=2, num_layers=2, mlp_mult=5))
    weights = dict(model.named_parameters())
    config = ExportConfig(scheme=scheme, fp16_embedding=fp16_embedding)
    chosen = forms(shapes_of(weights), config)

    assert chosen["embedding.weight"] == ("fp16" if fp16_embedding else "int8")
    assert chosen["skip_weights"] == chosen["blocks.0.resid_mix"] == chosen["blocks.1.attention.q_gain"] == "fp32"
    in_six = scheme == "int6_int8"
    assert chosen["blocks.0.mlp.fc.weight"] == ("int6" if in_six else "int8")
    assert chosen["blocks.0.attention.k_proj.weight"] == ("int6" if in_six else "fp16")

    artifact = quantize.encode(weights, config)
    found = quantize.decode(artifact.data)
    assert list(found) == list(weights)
    assert artifact.raw_bytes == packed_bytes(shapes_of(weights), config) > len(artifact.data) / 2
    for name, weight in weights.items():
        if chosen[name] == "fp32":
            assert torch.equal(found[name], weight)
        elif chosen[name] == "fp16":
            assert torch.equal(found[name], weight.half().float())
        else:
            together = quantize.round_trip([weight, 2 * weight], [chosen[name]] * 2, config)[0]
            assert torch.equal(found[name], together)


def test_the_baseline_rounds_small_rows_coarsely_and_so_packs_them_better():
    weights = {"embedding.weight": 0.05 * torch.randn(1024, 128)}
    sizes = [len(quantize.encode(weights, ExportConfig(scheme="int8", least_clip=least)).data) for least in (1, 0)]
    assert sizes[0] < 0.7 * sizes[1]


def test_pruning_zeroes_the_smallest_share_of_each_matrix_and_nothing_else():
    model = GPT(ModelConfig(vocab_size=64, model_dim=32, num_heads=2, num_kv_heads=1, num_layers=2))
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    weights["blocks.0.mlp.proj.weight"] = torch.randn_like(weights["blocks.0.mlp.proj.weight"])
    before = {name: weight.clone() for name, weight in weights.items()}
    found = quantize.pruned(weights, 0.3)
    zeroed = found["blocks.0.mlp.proj.weight"] == 0
    whole = weights["blocks.0.mlp.proj.weight"]
    assert zeroed.sum() == int(0.3 * whole.numel())
    assert whole[zeroed].abs().max() <= whole[~zeroed].abs().min()
    for name, weight in weights.items():
        assert torch.equal(weight, before[name])
        if name in ("embedding.weight", "skip_weights") or name.endswith(("_mix", "_gain", "_scale")):
            assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
def test_bytes_that_are_no_artifact_or_a_damaged_one_are_refused(codec):
    data = quantize.encode({INT6: torch.randn(8, 8)}, ExportConfig(scheme="int6_int8", codec=codec)).data
    with pytest.raises(ValueError, match="begins with one of"):
        quantize.decode(b"PK" + data)
    with pytest.raises(ValueError, match="is damaged"):
        quantize.decode(data[:-20])


def test_code_counts_by_the_bytes_of_its_files(tmp_path):
    (tmp_path / "a.py").write_bytes(b"x" * 10)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.py").write_bytes(b"x" * 5)
    (tmp_path / "c.txt").write_bytes(b"x" * 100)
    assert quantize.code_bytes("") == 0
    assert quantize.code_bytes(str(tmp_path)) == 15
    assert quantize.code_bytes(str(tmp_path / "c.txt")) == 100
    assert quantize.code_bytes("trainer") > 10_000
    with pytest.raises(ConfigError, match=r"export\.code is '/nowhere', but there is no such file"):
        quantize.check(ExportConfig(code="/nowhere"))
    with pytest.raises(ConfigError, match=r"export\.path must name a file"):
        quantize.check(ExportConfig(path=str(tmp_path)))


def test_without_zstandard_the_config_is_at_fault_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)  # as an import finds it where it is not installed
    with pytest.raises(
        ConfigError, match=r"zstandard is not installed here; install it, or set export\.codec to 'zlib'"
    ):
        quantize.check(ExportConfig(scheme="int8", codec="zstd"))
    quantize.check(ExportConfig(scheme="int8", codec="zlib"))
