"""The shape of a study file: pydantic models, and the JSON Schema that editors check and complete with."""

from __future__ import annotations

import itertools
import re
import typing
from typing import Any, Literal

from pydantic import (
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from sweeper.command import HANG_SECONDS, KNOB, Command
from sweeper.plan_file import Plan, token_count
from sweeper.protocol import DataSpec
from sweeper.scores import Judge
from sweeper.space import Axis
from sweeper.study_checks import OWNED, check_pruned_on
from sweeper.study_search import HalvingPruner, NoPruner, PrunedOn, Pruner, Sampler, Strict, TPESampler
from trainer.config import config_paths

BUDGET_UNITS = ("seconds", "tokens", "steps")


class BudgetTable(Strict):
    """Length of a trial, by one unit, and where trials are compared on the way."""

    seconds: StrictFloat | None = Field(
        default=None, gt=0, description="Training seconds; validation and compilation do not count."
    )
    tokens: StrictInt | None = Field(default=None, gt=0, description="Trained tokens.")
    steps: StrictInt | None = Field(default=None, gt=0, description="Optimiser steps.")
    rungs: tuple[StrictFloat, ...] = Field(
        default=(0.3, 0.6),
        description="Shares of the budget, ascending in (0, 1), at which trials may be pruned.",
    )
    ladder: tuple[StrictFloat, ...] = Field(
        default=(),
        description="Smaller budgets in the same unit, ascending: every trial gives the outcome of each on its way, by "
        "a branch that cools down. Warm-ups are then shares of the smallest. It goes with the length: a [cpu] table "
        "that sets a length sets a ladder of its own, or has none.",
    )

    @field_validator("rungs")
    @classmethod
    def _check_rungs(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        percents = [round(100 * rung) for rung in rungs]  # what Optuna files them under
        if any(not 0 < rung < 1 for rung in rungs) or any(a >= b for a, b in itertools.pairwise(percents)):
            raise ValueError("rungs are shares in (0, 1), ascending by at least 0.01")
        return rungs

    @field_validator("ladder")
    @classmethod
    def _check_ladder(cls, ladder: tuple[float, ...]) -> tuple[float, ...]:
        if any(rung <= 0 for rung in ladder) or any(a >= b for a, b in itertools.pairwise(ladder)):
            raise ValueError(f"a ladder holds positive budgets, ascending, got {list(ladder)}")
        return ladder


class Budget(BudgetTable):
    """A budget with exactly one unit."""

    @model_validator(mode="after")
    def _check_unit(self) -> Budget:
        given = [unit for unit in BUDGET_UNITS if getattr(self, unit) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of seconds, tokens, steps; found {' and '.join(given) or 'none'}")
        length = getattr(self, given[0])
        if self.ladder and self.ladder[-1] >= length:
            raise ValueError(f"ladder holds budgets below {given[0]} = {length:g}, got {list(self.ladder)}")
        return self

    @property
    def unit(self) -> str:
        """`seconds`, `tokens` or `steps`."""
        return next(unit for unit in BUDGET_UNITS if getattr(self, unit) is not None)

    @property
    def ladder_shares(self) -> tuple[float, ...]:
        """The ladder's budgets as shares of the whole."""
        return tuple(rung / getattr(self, self.unit) for rung in self.ladder)


class Promote(Strict):
    """How long the full run of a winner is."""

    tokens: StrictStr = Field(
        default="20x",
        pattern=r"^[0-9]+(\.[0-9]+)?[KMBx]?$",
        description="`3B`, `500M`, or `20x` for a multiple of the trial's tokens.",
    )
    plan: StrictStr = Field(
        default="", description="Plan file of the full run, by path or name; its phases then say how long it is."
    )

    def count(self, trial_tokens: int) -> int:
        """Tokens of the full run of a trial that trained on `trial_tokens`."""
        return token_count(self.tokens, trial_tokens)


class Constraints(Strict):
    """Limits that a trial must keep to be a result: one that breaks them is never best."""

    artifact_bytes: StrictInt | None = Field(
        default=None, gt=0, description="Largest exported artifact, code included where it is asked for."
    )
    peak_memory_bytes: StrictInt | None = Field(
        default=None, gt=0, description="Largest memory of a device; one that does not tell, as a CPU, keeps it."
    )

    @property
    def given(self) -> dict[str, int]:
        """The limits that are set, by name."""
        return {name: limit for name, limit in self.model_dump().items() if limit is not None}


Point = dict[StrictStr, StrictBool | StrictInt | StrictFloat | StrictStr]


class Common(Strict):
    """What a study file and a resolved study share."""

    name: StrictStr = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=100)
    description: StrictStr = ""
    trials: StrictInt = Field(ge=1, description="Finished trials to reach, pruned ones included.")
    space: dict[str, Axis] = Field(min_length=1, description="Axes by config path.")
    budget: Budget
    judge: Judge = Field(
        default="final",
        description="The score that ranks trials: `final` the plain one of the outcome, `streamed` that of the curve's "
        "end, `sliding` with overlapping windows, `quantised` after the round trip through the artifact, or both. "
        "Pruning uses the streamed one, unless `pruner.on` says otherwise.",
    )
    constraints: Constraints = Constraints()
    points: tuple[Point, ...] = Field(
        default=(), description="Values to try before the sampler draws any, each with every axis; the first `trials`."
    )
    sampler: Sampler = TPESampler(type="tpe")
    pruner: Pruner = HalvingPruner(type="halving")
    base: dict[str, Any] = Field(
        default_factory=dict, description="Config values that all trials share; the rest keep their defaults."
    )
    data: DataSpec = DataSpec(name="small")
    trainer: Command | None = Field(
        default=None, description="A training script of your own, in place of sweeper's trainer."
    )
    promote: Promote = Promote()
    plan: Plan | None = Field(default=None, description="What promote.plan names, filled in; or the plan itself.")
    retries: StrictInt = Field(default=2, ge=0, description="Repeats of a trial whose trainer broke.")
    hang_seconds: StrictFloat = Field(default=120.0, gt=0, description="Silence after which a trainer is killed.")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_a_command(cls, values: Any) -> Any:
        """A command knows its data, unless the study names others, and may be silent for long."""
        if not isinstance(values, dict) or not values.get("trainer"):
            return values
        given = values.get("data", {})
        data = {"name": "", "tokenizer": "", **given} if isinstance(given, dict) else given
        return {"hang_seconds": HANG_SECONDS, **values, "data": data}

    @model_validator(mode="after")
    def _check_pruner(self) -> Common:
        check_pruned_on(self.pruned_on, self.budget.rungs, self.budget.ladder_shares, self.space)
        return self

    @property
    def pruned_on(self) -> PrunedOn | None:
        """What the pruner ranks; None where nothing is pruned."""
        return None if isinstance(self.pruner, NoPruner) else self.pruner.on

    @property
    def reported_rungs(self) -> tuple[float, ...]:
        """Shares of the budget at which trials report a value to Optuna, and are judged."""
        return self.budget.ladder_shares if self.pruned_on == "cooled" else self.budget.rungs

    @model_validator(mode="after")
    def _check_ladder(self) -> Common:
        if self.budget.ladder and self.trainer is not None:
            raise ValueError(
                f"budget.ladder is {list(self.budget.ladder)}, but this study trains by a [trainer] command, and a "
                "script of its own has no branches: leave one of the two out"
            )
        return self


class CpuTable(Strict):
    """What changes where there is no GPU: laid over the rest of the file, table by table.

    Of a budget with another unit, an axis, the points, and a sampler or pruner of another type, the whole is replaced.
    """

    description: StrictStr | None = None
    trials: StrictInt | None = None
    space: dict[str, Axis] = Field(default={})
    budget: BudgetTable = BudgetTable()
    judge: Judge | None = None
    constraints: Constraints = Constraints()
    points: tuple[Point, ...] = ()
    sampler: dict[str, Any] = Field(default={})
    pruner: dict[str, Any] = Field(default={})
    base: dict[str, Any] = Field(default={})
    data: dict[str, Any] = Field(default={})
    trainer: dict[str, Any] = Field(default={})
    promote: dict[str, Any] = Field(default={})
    retries: StrictInt | None = None
    hang_seconds: StrictFloat | None = None


class StudyFile(Common):
    """A sweeper study. The name is the file's, unless given."""

    cpu: CpuTable = CpuTable()


def json_schema() -> dict[str, Any]:
    """JSON Schema of a study file, published as studies/study.schema.json; paths are spelled out, so that
    an editor completes them."""
    schema = StudyFile.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    paths = {path: hint for path, hint in config_paths().items() if path not in OWNED}
    schema["$defs"]["Config"] = _config_schema(paths)
    for part in (schema, schema["$defs"]["CpuTable"]):
        part["properties"]["base"] |= {"$ref": "#/$defs/Config"}
        part["properties"]["base"].pop("additionalProperties", None)
        names = [{"enum": list(paths)}, {"pattern": rf"^{re.escape(KNOB)}[A-Za-z_][A-Za-z0-9_-]*$"}]
        part["properties"]["space"]["propertyNames"] = {"anyOf": names}
    return schema


def _config_schema(paths: dict[str, Any]) -> dict[str, Any]:
    parts: dict[str, dict[str, Any]] = {}
    for path, hint in paths.items():
        part, _, key = path.partition(".")
        if typing.get_origin(hint) is Literal:
            kind: dict[str, Any] = {"enum": list(typing.get_args(hint))}
        else:
            kind = {"type": {int: "integer", float: "number", bool: "boolean", str: "string"}[hint]}
        parts.setdefault(part, {})[key] = kind
    tables: dict[str, dict[str, Any]] = {
        part: {"type": "object", "additionalProperties": False, "properties": keys} for part, keys in parts.items()
    }
    tables[KNOB.rstrip(".")] = {"type": "object", "additionalProperties": {"type": ["number", "boolean", "string"]}}
    return {"type": "object", "additionalProperties": False, "properties": tables}
