"""A training script of somebody's own: the [trainer] table of a study, and a trial's values in the script's words.

A study with a command searches config paths, for which the script has names of its own, and the script's other
knobs as `trainer.NAME`.  What a trial is given, all told, are its searched and base values, the seed, the
budget, and the data where the study names them; everything else keeps the script's default.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr, field_validator, model_validator

from sweeper.protocol import CommandRun, DataSpec
from sweeper.space import Value, did_you_mean
from trainer.config import ConfigError, SeedConfig, config_paths

KNOB = "trainer."
"""What a path begins with that names a knob of the script."""
HANG_SECONDS = 1800.0
"""Of a study that does not say: scripts are silent while they compile, and for the whole of a final evaluation."""
NAMES = {
    "model.vocab_size": "VOCAB_SIZE",
    "model.num_layers": "NUM_LAYERS",
    "model.model_dim": "MODEL_DIM",
    "model.num_heads": "NUM_HEADS",
    "model.num_kv_heads": "NUM_KV_HEADS",
    "model.mlp_mult": "MLP_MULT",
    "model.tie_embeddings": "TIE_EMBEDDINGS",
    "model.rope_base": "ROPE_BASE",
    "model.logit_softcap": "LOGIT_SOFTCAP",
    "model.qk_gain_init": "QK_GAIN_INIT",
    "model.embed_init_std": "TIED_EMBED_INIT_STD",
    "optim.matrix_lr": "MATRIX_LR",
    "optim.scalar_lr": "SCALAR_LR",
    "optim.embed_lr": "TIED_EMBED_LR",
    "optim.head_lr": "HEAD_LR",
    "optim.momentum": "MUON_MOMENTUM",
    "optim.momentum_start": "MUON_MOMENTUM_WARMUP_START",
    "optim.newton_schulz_steps": "MUON_BACKEND_STEPS",
    "optim.beta1": "BETA1",
    "optim.beta2": "BETA2",
    "optim.eps": "ADAM_EPS",
    "optim.grad_clip": "GRAD_CLIP_NORM",
    "data.seq_len": "TRAIN_SEQ_LEN",
    "data.batch_tokens": "TRAIN_BATCH_TOKENS",
    "data.path": "DATA_PATH",
    "data.tokenizer": "TOKENIZER_PATH",
    "seeds.init": "SEED",
    "budget.seconds": "MAX_WALLCLOCK_SECONDS",
    "budget.steps": "ITERATIONS",
}
"""Of the parameter-golf baseline; as arguments in lower case."""
FILLED_IN = {
    "budget.seconds": "[budget]",
    "budget.steps": "[budget]",
    "data.path": "[data]",
    "data.tokenizer": "[data]",
}
"""Paths that have names but are not to be set under base or space, and what sets them."""
_IDENTIFIER = {"environment": r"[A-Za-z_][A-Za-z0-9_]*", "arguments": r"[A-Za-z_][A-Za-z0-9_-]*"}


class Command(BaseModel):
    """A command that trains in place of sweeper's own trainer, once for each trial, and logs as parameter-golf does."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    command: StrictStr = Field(description="Words as a shell splits them; no shell runs them.")
    directory: StrictStr = Field(
        default="",
        description="Folder on the worker that it is started for; left out: where the worker was started.",
    )
    pass_: Literal["environment", "arguments"] = Field(
        default="environment",
        alias="pass",
        description="How values reach it: as environment variables, or as `--name value` behind the command.",
    )
    names: dict[StrictStr, StrictStr] = Field(
        default={},
        description="What the script calls a config path, where that is not parameter-golf's name; empty for a "
        "value that it must not be given.",
    )

    @field_validator("command")
    @classmethod
    def _check_command(cls, command: str) -> str:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"no command line: {error}, got {command!r}") from error
        if not words:
            raise ValueError("the command is empty")
        return command

    @model_validator(mode="after")
    def _check_names(self) -> Command:
        known = {*config_paths(), *NAMES}
        for path, name in self.names.items():
            if path not in known:
                raise ValueError(f'names."{path}": there is no config path {path!r}{did_you_mean(path, known)}')
            if name:
                self.check_identifier(name, f'names."{path}"')
        return self

    def check_identifier(self, name: str, where: str) -> None:
        """
        Raises:
            ValueError: a name that no environment variable, or no argument, can have.
        """
        if not re.fullmatch(_IDENTIFIER[self.pass_], name):
            raise ValueError(f"{where}: {name!r} is no name; it takes letters, digits and _, such as MATRIX_LR")

    def named(self, path: str) -> str:
        """What the script calls a path; empty for one that it must not be given, or has no name for."""
        if path.startswith(KNOB):
            return path.removeprefix(KNOB)
        name = NAMES.get(path, "")
        return self.names.get(path, name if self.pass_ == "environment" else name.lower())

    def check_path(self, path: str, where: str) -> str:
        """The name of a path that a study sets.

        Raises:
            ValueError: it has none.
        """
        name = self.named(path)
        if path.startswith(KNOB):
            self.check_identifier(name, where)
        elif not name:
            raise ValueError(
                f"{where}: nothing says what the command calls {path}; give it a name: "
                f'[trainer] names = {{ "{path}" = "…" }}, or search the knob itself as "{KNOB}NAME"'
            )
        return name

    def filled_in(self, unit: str, data: DataSpec) -> dict[str, str]:
        """Names that the study's tables set, and which table does."""
        paths = ["budget.seconds" if unit == "seconds" else "budget.steps"]
        paths += [path for path, text in (("data.path", data.name), ("data.tokenizer", data.tokenizer)) if text]
        return {name: FILLED_IN[path] for path in paths if (name := self.named(path))}


def config(
    trainer: Command,
    values: Mapping[str, Value],
    budget: Mapping[str, float | None],
    rungs: Iterable[float],
    data: DataSpec,
) -> dict[str, Any]:
    """A run of the command, as nested plain values to store and show: its values by path, and as they are passed.

    Args:
        values: searched and base values, by path.
        budget: `seconds`, `tokens`, `steps`; one of them is set.

    Raises:
        ConfigError: a budget of tokens without a batch to divide them by.
    """
    passed = {name: value for path, value in values.items() if (name := trainer.named(path))}
    batch_tokens = passed.get(trainer.named("data.batch_tokens"))
    seconds, steps = budget.get("seconds"), budget.get("steps")
    if tokens := budget.get("tokens"):
        steps = math.ceil(tokens / _batch(batch_tokens, trainer))
    filled: dict[str, Value | None] = {
        trainer.named("seeds.init"): SeedConfig().init,
        trainer.named("budget.seconds"): 0 if seconds is None else _plain(seconds),
        trainer.named("budget.steps"): None if steps is None else int(steps),
        trainer.named("data.path"): data.name or None,
        trainer.named("data.tokenizer"): data.tokenizer or None,
    }
    passed = {name: value for name, value in filled.items() if name and value is not None} | passed
    nested: dict[str, Any] = {
        "command": {"command": trainer.command, "directory": trainer.directory, "pass": trainer.pass_},
        "passed": passed,
        "budget": {"seconds": seconds, "tokens": tokens, "steps": None if tokens else steps},
        "eval": {"fractions": sorted(rungs)},
    }
    for path, value in values.items():
        part, _, key = path.partition(".")
        nested.setdefault(part, {})[key] = value
    if isinstance(batch_tokens, int):
        nested.setdefault("data", {}).setdefault("batch_tokens", batch_tokens)
    return nested


def _batch(batch_tokens: Value | None, trainer: Command) -> int:
    if isinstance(batch_tokens, bool) or not isinstance(batch_tokens, int) or batch_tokens < 1:
        name = trainer.named("data.batch_tokens") or "data.batch_tokens"
        raise ConfigError(f"a budget in tokens needs a batch to make steps of: set data.batch_tokens in base ({name})")
    return batch_tokens


def to_run(nested: Mapping[str, Any], *, keep: bool = False) -> CommandRun | None:
    """The command run that `config` made these values for; None for the values of a TrainConfig."""
    if "command" not in nested:
        return None
    table, passed, budget = nested["command"], nested["passed"], nested["budget"]
    texts = {name: text(value) for name, value in passed.items()}
    argv = shlex.split(table["command"])
    as_arguments = table["pass"] == "arguments"
    if as_arguments:
        argv += [word for name, value in texts.items() for word in (f"--{name}", value)]
    return CommandRun(
        argv=argv,
        directory=table["directory"],
        environment={} if as_arguments else texts,
        budget_seconds=budget["seconds"],
        rungs=nested["eval"]["fractions"],
        batch_tokens=nested.get("data", {}).get("batch_tokens"),
        keep=keep,
    )


def text(value: Value) -> str:
    """A value as scripts read it: truth as 1 and 0, numbers as Python writes them."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _plain(number: float) -> float:
    """600 and not 600.0, which `int()` would not read."""
    return int(number) if float(number).is_integer() else number
