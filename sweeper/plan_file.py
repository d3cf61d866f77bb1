"""The plan of a full run: a TOML file with its phases and what counts as success.  Its shape, and its two profiles."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictStr, ValidationError, field_validator

from sweeper.criteria import SuccessCriteria
from sweeper.errors import SweeperError
from sweeper.files import prefixed, read_named
from sweeper.protocol import DataSpec
from sweeper.study_checks import explain
from trainer.config import DataConfig, PhaseConfig, PlanConfig

EVERY = 0.025
"""Share of a full run between two validations; phase ends are validated besides."""
DEFAULTS: dict[str, Any] = {
    "checkpoint": {"keep_last": 2, "keep_best": True, "every_seconds": 300.0},
    "eval": {"sample_tokens": 48},
}
"""What a full run wants and a trial does not; a plan's [base] may say otherwise."""


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Phase(Table):
    """One phase; see the trainer's PhaseConfig for what each value does."""

    name: StrictStr
    tokens: StrictStr = Field(description="`1B`, `120M`, `64K` or a plain number: positions to train.")
    kind: Literal["pretrain", "instruct", "remedial"] = "pretrain"
    lr: StrictFloat = Field(default=1.0, gt=0, description="Rate as a share of the values' own.")
    shape: Literal["constant", "linear", "cosine"] = "constant"
    final_lr: StrictFloat = Field(default=0.0, ge=0)
    warmup: StrictFloat = Field(default=0.0, ge=0, le=1, description="Share of the phase.")
    optimizer: Literal["keep", "reset"] = "keep"
    data: StrictStr = Field(default="", description="Prepared folder on the worker; empty: the plan's.")
    split: Literal["train", "reserve"] = "train"
    windows: Literal["stream", "documents"] = "stream"
    dropout: StrictFloat | None = Field(default=None, ge=0, lt=1)

    @field_validator("tokens")
    @classmethod
    def _check_tokens(cls, text: str) -> str:
        if not token_count(text, 0):
            raise ValueError(f"a phase's tokens are a number such as 1B, not a multiple of a trial's, got {text!r}")
        return text


class Cpu(Table):
    """What changes where there is no GPU."""

    tokens_scale: StrictFloat = Field(default=1.0, gt=0, le=1, description="Share of each phase's tokens.")
    base: dict[str, Any] = Field(default_factory=dict)
    values: dict[str, Any] = Field(default_factory=dict)
    data: DataSpec | None = None
    repeat_data: bool | None = None
    phase_data: StrictStr | None = Field(default=None, description="In place of the phases' own folders.")
    success: dict[str, Any] = Field(default_factory=dict)


class Plan(Table):
    """A full run of a trial's values, or of those in `values`: phases one after another on one clock."""

    name: StrictStr = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=100)
    description: StrictStr = ""
    study: StrictStr = Field(description="Whose trial gives the values; `sweeper run` stores the run there.")
    phases: tuple[Phase, ...] = Field(min_length=1)
    repeat_data: bool = Field(default=False, description="Whether phases may see their data more than once.")
    base: dict[str, Any] = Field(
        default_factory=dict, description="Config values laid over the study's and the trial's."
    )
    values: dict[str, Any] = Field(
        default={}, description="A value for each axis of the study: what `sweeper run` starts without a trial."
    )
    data: DataSpec | None = Field(default=None, description="In place of the study's.")
    success: SuccessCriteria = SuccessCriteria()
    cpu: Cpu = Cpu()

    def for_cpu(self) -> Plan:
        """The plan with its [cpu] table applied."""
        over = self.cpu
        phases = []
        for phase in self.phases:
            tokens = max(1, math.ceil(token_count(phase.tokens, 0) * over.tokens_scale))
            data = over.phase_data if phase.data and over.phase_data is not None else phase.data
            phases.append(phase.model_copy(update={"tokens": str(tokens), "data": data}))
        success = SuccessCriteria.model_validate({**self.success.model_dump(), **over.success})
        changes: dict[str, Any] = {
            "phases": tuple(phases),
            "repeat_data": self.repeat_data if over.repeat_data is None else over.repeat_data,
            "base": merged(self.base, over.base),
            "values": {**self.values, **over.values},
            "data": over.data or self.data,
            "success": success,
            "cpu": Cpu(),
        }
        return self.model_copy(update=changes)

    def lay_over(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's config as the plan runs it, nested: phases, budget and validations filled in."""
        values = merged(merged(dict(config), DEFAULTS), self.base)
        phases = tuple(
            PhaseConfig(**{**phase.model_dump(), "tokens": token_count(phase.tokens, 0)}) for phase in self.phases
        )
        plan = PlanConfig(phases=phases, repeat_data=self.repeat_data)
        ends = plan.ends(int(values.get("data", {}).get("batch_tokens", DataConfig().batch_tokens)))
        shares = {round(EVERY * index, 6) for index in range(1, round(1 / EVERY))}
        shares |= {round(end / ends[-1], 6) for end in ends[:-1]}
        return {
            **values,
            "plan": dataclasses.asdict(plan),
            "budget": {"tokens": plan.tokens},
            "ladder": {},
            "schedule": {},
            "eval": {**values["eval"], "fractions": sorted(shares)},
        }


def load_plan(name_or_path: str, folder: Path = Path()) -> Plan:
    """Read a plan: a path, also from `folder`, or the name of one in ./studies or among the packaged ones.

    Raises:
        SweeperError: no such file, no TOML, or a value that cannot be.
    """
    beside = folder / (name_or_path if name_or_path.endswith(".toml") else f"{name_or_path}.toml")
    where, text = read_named(str(beside) if beside.is_file() else name_or_path, "plan")
    try:
        return Plan.model_validate({"name": Path(where).stem, **tomllib.loads(text)})
    except tomllib.TOMLDecodeError as error:
        raise SweeperError(f"{where} is not TOML: {error}") from error
    except ValidationError as error:
        raise SweeperError(prefixed(where, explain(error, Plan))) from error


def token_count(text: str, trial_tokens: int) -> int:
    """Tokens in `3B`, `500M`, `64K`, `4096`, or `20x` (a multiple of the trial's).

    Raises:
        ValueError: another form, or nothing at all.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMBx]?)", text)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"tokens must look like 3B, 500M or 20x (times the trial's), got {text!r}")
    unit = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000, "x": trial_tokens}[match[2]]
    return round(float(match[1]) * unit)


def merged(values: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables with others laid over them."""
    found = dict(values)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(dict(found[key]), value) if both else value
    return found
