"""A study as the service runs it: read from its file, resolved for a profile, checked, fingerprinted.

`load` reads the TOML, applies the [cpu] table where the profile asks for it, and checks everything that can
be checked before a trial runs.  What it returns, a StudySpec, is plain JSON both ways.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from sweeper import command, scores, study_file
from sweeper.errors import SweeperError
from sweeper.files import prefixed, read_named
from sweeper.plan_file import Plan, load_plan
from sweeper.space import Value, resolve
from sweeper.study_checks import (
    check_command_paths,
    check_corners,
    check_judgeable,
    check_paths,
    check_points,
    explain,
    leaves,
)
from sweeper.study_file import BUDGET_UNITS, StudyFile
from sweeper.tokenizers import VOCABULARY_SIZES
from trainer.config import ConfigError, TrainConfig

Profile = Literal["gpu", "cpu"]

CURVE_FRACTIONS = (0.1, 0.2, 0.45, 0.8)
"""Shares of the budget that are validated for the curve's sake, beside the rungs."""

SLOPE_SHARES = (0.5, 0.75)
"""Shares of each rung that are validated too where ends are foretold: a slope needs three points."""

COMPATIBLE = {
    "name",
    "description",
    "trials",
    "promote",
    "retries",
    "hang_seconds",
    "sampler",
    "pruner",
    "points",
    "plan",
}
"""What may change once a study has trials; everything else decides what a score means."""


class StudySpec(study_file.Common):
    """A resolved study: one profile, every value in its place."""

    profile: Profile
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)

    def config(self, params: Mapping[str, Value]) -> dict[str, Any]:
        """All values of the TrainConfig that these searched values mean, ties, budget and evaluations
        filled in; `data.path` and `checkpoint.path` are the worker's to fill.  Of a study with a command, what
        `command.config` makes of them.

        Raises:
            SweeperError: a value that does not lie on its axis, an axis without one, or values that no run
                can have together (`load` has tried the corners).
        """
        try:
            return self._build(params).to_dict() if self.trainer is None else self.command_config(params)
        except ConfigError as error:
            raise SweeperError(f"these values cannot run together: {error}") from error

    def command_config(
        self, params: Mapping[str, Value], budget: study_file.BudgetTable | None = None
    ) -> dict[str, Any]:
        """A run of the study's command; raises ConfigError and SweeperError as `config` has them.

        Args:
            budget: of a full run, in which nothing is pruned; None is the trials'.
        """
        assert self.trainer is not None
        values = dict(leaves(self.base)) | resolve(self.space, params)
        rungs = () if budget is not None or self.pruner.type == "none" else self.budget.rungs
        length = (budget or self.budget).model_dump(include=set(BUDGET_UNITS))
        return command.config(self.trainer, values, length, rungs, self.data)

    def _build(self, params: Mapping[str, Value]) -> TrainConfig:
        nested = {part: dict(values) for part, values in self.base.items()}
        for path, value in resolve(self.space, params).items():
            part, _, key = path.partition(".")
            nested.setdefault(part, {})[key] = value
        vocabulary = VOCABULARY_SIZES.get(self.data.tokenizer)
        if vocabulary is not None:
            nested.setdefault("model", {}).setdefault("vocab_size", vocabulary)
        batches = self.space.get("data.batch_tokens")
        if self.profile == "gpu" and batches is not None:
            # One shape for every batch of the study: another one would be another compilation.
            nested.setdefault("data", {}).setdefault("micro_batch_tokens", math.gcd(*map(int, batches.samples())))
        nested["budget"] = {self.budget.unit: getattr(self.budget, self.budget.unit)}
        nested["ladder"] = {"budgets": self.budget.ladder}
        shares = SLOPE_SHARES if self.pruned_on == "forecast" else ()
        foretold = {round(rung * share, 6) for rung in self.budget.rungs for share in shares}
        nested.setdefault("eval", {})["fractions"] = sorted({*self.budget.rungs, *CURVE_FRACTIONS, *foretold})
        return TrainConfig.from_dict(nested)

    def _unjudgeable(self, params: Mapping[str, Value]) -> str:
        """Why a run of these values would end without what judges it; else empty."""
        return scores.missing(self.judge, self.constraints.given, self._build(params).to_dict())

    def fingerprint(self) -> str:
        """SHA-256 of all that decides what a score means: equal for compatible studies only."""
        canonical = json.dumps(self._comparable(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _comparable(self) -> dict[str, Any]:
        plain = self.model_dump(mode="json", exclude=COMPATIBLE | ({"trainer"} if self.trainer is None else set()))
        if not self.budget.ladder:  # as in studies that were stored before there were ladders
            del plain["budget"]["ladder"]
        if self.pruned_on == "cooled":  # rung values of another kind; raw ones are kept whatever is foretold from them
            plain["pruner"] = {"on": "cooled"}
        # An axis is compared as a whole, in one line.
        axes = {f'space."{path}"': json.dumps(axis, sort_keys=True) for path, axis in plain.pop("space").items()}
        return {path: _plain_number(value) for path, value in leaves(plain)} | axes


def load(name_or_path: str, profile: Profile) -> StudySpec:
    """Read and check a study: a path, or the name of a study in ./studies or among the packaged ones.

    Both profiles are checked, whichever is asked for: a mistake in [cpu] shows on the GPU machine too.

    Raises:
        SweeperError: no such file, no TOML, or anything in it that cannot work; the message has the file,
            the path, the value, and what was expected.
    """
    where, text = read_named(name_or_path)
    try:
        raw = tomllib.loads(text)
        StudyFile.model_validate(raw)
        specs = {name: _resolve_profile(raw, name, Path(where)) for name in ("gpu", "cpu")}
    except tomllib.TOMLDecodeError as error:
        raise SweeperError(f"{where} is not TOML: {error}") from error
    except ValidationError as error:
        raise SweeperError(prefixed(where, explain(error, StudyFile))) from error
    except SweeperError as error:
        raise SweeperError(prefixed(where, str(error))) from error
    return specs[profile]


def load_with_plan(name_or_path: str, profile: Profile) -> StudySpec:
    """The study that a plan file names, with that plan as its own; the study's file is looked for beside it first.

    Raises:
        SweeperError: as `load` and `load_plan`.
    """
    plan, folder = load_plan(name_or_path), Path(name_or_path).parent
    beside = folder / f"{plan.study}.toml"
    spec = load(str(beside) if name_or_path.endswith(".toml") and beside.is_file() else plan.study, profile)
    with_plan = spec.model_copy(update={"plan": plan.for_cpu() if profile == "cpu" else plan})
    verify(with_plan)
    return with_plan


def verify(spec: StudySpec) -> None:
    """Check what the shape alone does not promise: config paths, types, vocabulary, corners of the space.

    Raises:
        SweeperError: with the path in the study, the value and the expectation.
    """
    if spec.trainer is not None:
        _verify_command(spec, spec.trainer)
        return
    try:
        check_paths(spec.base, spec.space)
        check_corners(spec.space, spec._build)
        check_points(spec.space, spec.points, spec._build)
        check_judgeable(spec.space, spec._unjudgeable)
    except ValueError as error:
        raise SweeperError(str(error)) from error
    if spec.plan is not None:
        _verify_plan(spec, spec.plan)
    vocabulary = VOCABULARY_SIZES.get(spec.data.tokenizer)
    rows = spec.base.get("model", {}).get("vocab_size")
    if vocabulary is not None and rows is not None and rows < vocabulary:
        raise SweeperError(
            f"base.model.vocab_size must be at least {vocabulary} for the tokenizer {spec.data.tokenizer}, "
            f"got {rows}; leave it out to have it filled in"
        )


def _verify_plan(spec: StudySpec, plan: Plan) -> None:
    """That the plan is of this study, and a run with it can be built."""
    if plan.study != spec.name:
        raise SweeperError(f"plan {plan.name or '?'} is of study {plan.study!r}, not of {spec.name!r}")
    values = plan.values or {path: axis.samples()[0] for path, axis in spec.space.items()}
    try:
        TrainConfig.from_dict(plan.lay_over(spec.config(values)))
    except (ConfigError, SweeperError) as error:
        raise SweeperError(f"plan {plan.name or '?'}: {error}") from error


def _verify_command(spec: StudySpec, trainer: command.Command) -> None:
    """What can be known of a script that only its owner has read: names, types, and that a budget can be given."""
    filled_in = trainer.filled_in(spec.budget.unit, spec.data)
    try:
        check_command_paths(spec.base, spec.space, trainer, filled_in)
        check_corners(spec.space, spec.command_config)
        check_points(spec.space, spec.points, spec.command_config)
    except ValueError as error:
        raise SweeperError(str(error)) from error
    unit = "budget.seconds" if spec.budget.unit == "seconds" else "budget.steps"
    if not trainer.named(unit):
        raise SweeperError(f'trainer.names."{unit}" is empty: the command must be told the budget of a trial')


def incompatibilities(old: StudySpec, new: StudySpec) -> list[str]:
    """What differs between two versions of a study beyond what may change, as `budget.seconds: 20 → 30`;
    empty when trials of both can be compared."""
    before, after = old._comparable(), new._comparable()
    return [
        f"{path}: {_show(before, path)} → {_show(after, path)}"
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]


def json_schema() -> dict[str, Any]:
    """JSON Schema of a study file. Its published copy is written by
    `sweeper schema > studies/study.schema.json`."""
    return study_file.json_schema()


def _resolve_profile(raw: dict[str, Any], profile: Profile, where: Path) -> StudySpec:
    values = {"name": where.stem, **raw}
    over = values.pop("cpu", {})
    if profile == "cpu":
        values = _override(values, over)
    try:
        if named := values.get("promote", {}).get("plan"):
            values["plan"] = load_plan(named, where.parent).model_dump(mode="json")
        if profile == "cpu" and "plan" in values:
            values["plan"] = Plan.model_validate(values["plan"]).for_cpu().model_dump(mode="json")
        spec = StudySpec.model_validate({**values, "profile": profile})
        verify(spec)
    except ValidationError as error:
        raise SweeperError(_marked(explain(error, StudyFile), profile)) from error
    except SweeperError as error:
        raise SweeperError(_marked(str(error), profile)) from error
    return spec


def _marked(message: str, profile: Profile) -> str:
    # The GPU profile is the file as written; what fails only in the other comes of its [cpu] table.
    return message if profile == "gpu" else prefixed("with [cpu] applied", message)


def _override(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The file's tables with those of [cpu] laid over them."""
    merged = _merge(values, {key: part for key, part in over.items() if key != "space"})
    # Axes are replaced whole: half of one and half of another mean nothing.
    merged["space"] = {**values.get("space", {}), **over.get("space", {})}
    if any(unit in over.get("budget", {}) for unit in BUDGET_UNITS):
        of_length = (*BUDGET_UNITS, "ladder")
        kept = {key: value for key, value in values.get("budget", {}).items() if key not in of_length}
        merged["budget"] = {**kept, **over["budget"]}
    for part in ("sampler", "pruner"):
        if over.get(part, {}).get("type", values.get(part, {}).get("type")) != values.get(part, {}).get("type"):
            merged[part] = over[part]
    return merged


def _merge(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(values.get(key), dict)
        merged[key] = _merge(values[key], value) if both else value
    return merged


def _plain_number(value: Any) -> Any:
    # 2 and 2.0 in a file mean the same.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _show(values: dict[str, Any], path: str) -> str:
    return str(values[path]) if path in values else "(absent)"
