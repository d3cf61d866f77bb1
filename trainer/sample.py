"""`python -m trainer sample CHECKPOINT`: continue a prompt, one id a line, for as long as somebody reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from trainer import checkpoint, device
from trainer.checkpoint import CheckpointError
from trainer.config import ConfigError, TrainConfig
from trainer.generate import Sampling, stream
from trainer.models.base import LanguageModel
from trainer.models.build import build
from trainer.values import require


def sample(path: Path, request: dict[str, Any]) -> None:
    """Write ids to stdout, one JSON number a line, `tokens` of them at most.

    Args:
        path: a checkpoint, or a folder of them, of which the newest is taken.
        request: `prompt` (ids), `tokens`, `seed`, `device`, and Sampling's values.

    Raises:
        CheckpointError: there is none, or it is damaged.
        ConfigError: ids that the model does not have, or values that cannot be.
    """
    found = checkpoint.newest(path) if path.is_dir() else path
    if found is None or not found.is_file():
        raise CheckpointError(f"there is no checkpoint {str(path)!r}; name a file or a folder that a run wrote")
    where = device.choose(request.get("device", "auto"))
    state = checkpoint.read(found, where)
    config = TrainConfig.from_dict(state["config"])
    model = _model(config, state, where)
    words = config.model.vocab_size
    require(
        all(0 <= token < words for token in request["prompt"]),
        f"the prompt has ids beyond the model's {words} words; it needs the tokenizer that the model was trained with",
    )
    sampling = Sampling(**request.get("sampling", {}))
    generator = torch.Generator().manual_seed(request.get("seed", 0))
    tokens = stream(model, request["prompt"], seq_len=config.data.seq_len, sampling=sampling, generator=generator)
    for _ in range(request["tokens"]):
        sys.stdout.write(f"{next(tokens)}\n")
        sys.stdout.flush()


def run(path: Path) -> int:
    """Answer the request on stdin; the exit status, 2 with a message where it cannot be."""
    try:
        sample(path, json.loads(sys.stdin.read()))
    except (CheckpointError, ConfigError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # whoever read has enough
    return 0


def _model(config: TrainConfig, state: dict[str, Any], where: torch.device) -> LanguageModel:
    with where:
        model = build(config, device.compute_dtype(where))
    model.load_state_dict(state["model"])
    return model
