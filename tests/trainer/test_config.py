"""Configs: what is accepted, and how what is not is named."""

from __future__ import annotations

import json

import pytest

from trainer.config import ConfigError, TrainConfig, config_paths


def test_a_config_survives_json():
    config = TrainConfig.from_dict({"optim": {"matrix_lr": 0.02}, "eval": {"fractions": [0.3, 0.6]}})
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": {"matirx_lr": 0.1}}, "unknown config key optim.matirx_lr"),
        ({"optimizer": {}}, "unknown config key optimizer"),
        ({"optim": {"matrix_lr": "fast"}}, "optim.matrix_lr must be a number, got 'fast'"),
        ({"optim": {"matrix_lr": True}}, "optim.matrix_lr must be a number, got True"),
        ({"optim": {"matrix_lr": float("nan")}}, "optim.matrix_lr must be finite"),
        ({"optim": {"matrix_lr": -1}}, "optim.matrix_lr must be positive, got -1"),
        ({"model": {"num_layers": 2.5}}, "model.num_layers must be int, got 2.5"),
        ({"model": {"num_heads": 3}}, "must be a multiple of model.num_heads"),
        ({"model": {"mlp_mult": 1.3}}, "whole number of hidden units"),
        ({"data": {"batch_tokens": 1000}}, "data.batch_tokens must be a positive multiple of data.seq_len"),
        ({"budget": {"seconds": 1, "steps": 2}}, "exactly one of seconds, tokens, steps"),
        ({"budget": {}}, "exactly one of seconds, tokens, steps"),
        ({"budget": {"steps": 0}}, "budget.steps must be positive"),
        ({"eval": {"fractions": [0.6, 0.3]}}, "ascending shares"),
        ({"schedule": {"warmup": 0.7, "warmdown": 0.7}}, "must not exceed 1"),
        ({"runtime": {"device": "tpu"}}, "runtime.device must be one of 'auto', 'cuda', 'cpu', 'mps', got 'tpu'"),
        ({"model": 3}, "model must be a table"),
    ],
)
def test_what_cannot_work_is_named(values, message):
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(values)
    assert message in str(caught.value)


def test_paths_name_every_value():
    paths = config_paths()
    assert paths["optim.matrix_lr"] is float and paths["model.num_layers"] is int
    assert len(paths) == sum(len(part) for part in TrainConfig().to_dict().values())
