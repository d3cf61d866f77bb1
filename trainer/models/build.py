"""The one place where a config becomes a model."""

from __future__ import annotations

import torch

from trainer.config import TrainConfig
from trainer.models.base import LanguageModel
from trainer.models.gpt import GPT
from trainer.models.helix import Helix


def build(config: TrainConfig, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The model of the family that `config` names, drawn from torch's generator as it stands.

    Args:
        config: of the run; `seeds.topology` is the only seed that counts here.
        dtype: of the activations; parameters are float32.
    """
    if config.model.family == "helix":
        return Helix(config.helix, config.model.vocab_size, config.seeds.topology, dtype)
    return GPT(config.model, dtype)
