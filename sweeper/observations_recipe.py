"""What a run's values say of its place in a law: parameters by convention, rate, decay, batch, depth, seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sweeper.observations_facts import Recipe
from sweeper.observations_switches import PARAMS_WORDS
from sweeper.scores import ORIGIN
from trainer.config import ConfigError, HelixConfig, ModelConfig, TrainConfig, helix_shapes

ALIASES = {
    "learning_rate": ("optim.matrix_lr", "matrix_lr", "learning_rate", "lr"),
    "weight_decay": ("optim.matrix_weight_decay", "matrix_weight_decay", "weight_decay", "wd", "muon_wd"),
    "batch_tokens": ("data.batch_tokens", "batch_tokens", "train_batch_tokens"),
    "depth": ("model.num_layers", "helix.num_loops", "num_layers", "n_layer", "depth", "layers"),
    "width": ("model.model_dim", "helix.d_model", "model_dim", "n_embd", "d_model", "width"),
}
"""Where a value may stand: our config paths, and the names that other scripts give it; the first that is there."""
WHOLE = {"family", "vocab_size", "num_layers", "model_dim", "mlp_mult"}
"""Of the model section, what an imported run's partial config seldom has all of."""
TABLES = ("embedding.weight", "lm_head.weight", "stem.bigram.table.weight")
"""Weights of a vocabulary or a hash: looked up, not multiplied through (the head is, and is by habit left out too)."""


def recipe(params: Mapping[str, Any], config: Mapping[str, Any], parameters: int | None) -> Recipe:
    """What these values say.

    Args:
        params: the searched ones by path; they go before the config's.
        config: nested values of a TrainConfig, or of a command.
        parameters: as the run itself said, for configs that are not ours; what they count is stated in the section of
            an imported run, or not known.
    """
    helix = _section(config, "model").get("family") == "helix"
    counts, stated = counted(config), True
    if counts is None and parameters:
        said = _section(config, ORIGIN).get("parameters_count")
        stated = said in PARAMS_WORDS
        counts = {name: float(parameters) for name in PARAMS_WORDS if name == said or not stated}
    seeds = _section(config, "seeds")
    own = {path: value for path, value in params.items() if "seed" not in path.lower()}
    seed = next((v for path, v in params.items() if "seed" in path.lower()), seeds.get("init", 0))
    return Recipe(
        counts=counts,
        learning_rate=_value("learning_rate", params, config, helix),
        weight_decay=_value("weight_decay", params, config, helix),
        batch_tokens=_value("batch_tokens", params, config, helix),
        depth=_value("depth", params, config, helix),
        width=_value("width", params, config, helix),
        optimizer=str(params.get("optim.matrix_optimizer", _section(config, "optim").get("matrix_optimizer", ""))),
        mean_rate=mean_rate(_section(config, "schedule")),
        seed=int(seed) if isinstance(seed, (int, float)) else 0,
        seq_len=int(_section(config, "data").get("seq_len") or 1),
        repeats=json.dumps(own, sort_keys=True, default=str),
        convention_known=stated,
    )


def mean_rate(schedule: Mapping[str, Any]) -> float:
    """Mean of rate / peak over a ScheduleConfig's trapezoid; 1 where there is none."""
    warmup, warmdown = float(schedule.get("warmup", 0.0)), float(schedule.get("warmdown", 0.0))
    return 1 - warmup / 2 - warmdown * (1 - float(schedule.get("final_lr", 0.0))) / 2


def counted(config: Mapping[str, Any]) -> dict[str, float] | None:
    """Parameters by convention; None of values that are no whole config of ours: what is left out is not guessed."""
    if not set(_section(config, "model")) >= WHOLE:
        return None
    decide = ("model", "helix", "seeds") if _section(config, "model").get("family") == "helix" else ("model",)
    return _counted(json.dumps({name: config.get(name) or {} for name in decide}, default=str))


@lru_cache(maxsize=4096)
def _counted(text: str) -> dict[str, float] | None:
    from sweeper import artifact  # it brings the study files and Optuna with them: not for every reader

    parts = json.loads(text)
    try:
        built = TrainConfig.from_dict({name: part for name, part in parts.items() if part})
    except (ConfigError, TypeError, ValueError):
        return None
    model: ModelConfig = built.model
    helix: HelixConfig = built.helix
    if model.family == "helix":
        weights = helix_shapes(helix, model.vocab_size, built.seeds.topology)
    else:
        weights = artifact.shapes(model)
    sizes = {name: math.prod(shape) for name, shape in weights.items()}
    inner = {name: size for name, size in sizes.items() if name not in TABLES}
    matrices = sum(size for name, size in inner.items() if len(weights[name]) >= 2 and name.endswith(".weight"))
    return {"all": float(sum(sizes.values())), "non_embedding": float(sum(inner.values())), "matrices": float(matrices)}


def _value(name: str, params: Mapping[str, Any], config: Mapping[str, Any], helix: bool) -> float | None:
    paths = ALIASES[name]
    if helix:  # its config holds the unused model section too
        paths = tuple(p for p in paths if p.startswith("helix.")) + paths
    for path in paths:
        found = _number(params.get(path))
        if found is not None:
            return found
    last = {path.rpartition(".")[2].lower(): value for path, value in params.items()}
    for path in paths:
        found = _number(last.get(path))
        if found is not None:
            return found
    for path in paths:
        section, _, key = path.rpartition(".")
        found = _number(_section(config, section).get(key)) if section else _number(config.get(key))
        if found is not None:
            return found
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}
