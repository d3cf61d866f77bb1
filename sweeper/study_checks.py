"""What must hold of a study beyond its shape: paths exist, types fit, every corner of the space is a config.

Each check raises ValueError with a message that starts with the path in the file; `study.load` adds the file.
"""

from __future__ import annotations

import itertools
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from sweeper.command import KNOB, Command
from sweeper.errors import SweeperError
from sweeper.space import Axis, Space, Value, check, did_you_mean
from trainer.config import ConfigError, config_paths

OWNED = {
    "budget.seconds": "[budget]",
    "budget.tokens": "[budget]",
    "budget.steps": "[budget]",
    "ladder.budgets": "budget.ladder",
    "data.path": "[data]",
    "eval.fractions": "budget.rungs",
    "runtime.device": "the worker",
    "checkpoint.path": "the worker",
    "plan.phases": "the plan that [promote] names",
    "plan.repeat_data": "the plan that [promote] names",
}
"""Config paths that a study file may not set under base or space, and what sets them."""

MOST_COMBINATIONS = 256
"""Up to this many, all combinations of sampled axis values are built; above, corners and one-offs."""


def leaves(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything in nested tables."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_paths(base: Mapping[str, Any], space: Space) -> None:
    """Every path of base, space and ties is a config path, is the study's to set, and is set once."""
    set_by: dict[str, str] = {}

    def claim(path: str, where: str) -> None:
        _check_settable(path, where)
        if path in set_by:
            raise ValueError(f"{where}: {path} is also set by {set_by[path]}; keep one of the two")
        set_by[path] = where

    for path, _ in leaves(base):
        claim(path, f"base.{path}")
    for path, axis in space.items():
        claim(path, f'space."{path}"')
        _check_type(path, axis)
        for follower in axis.tie:
            claim(follower, f'space."{path}".tie."{follower}"')


def check_command_paths(base: Mapping[str, Any], space: Space, trainer: Command, filled_in: Mapping[str, str]) -> None:
    """As check_paths, for a study whose command has names of its own: a name is set once, and by one that may.

    Args:
        filled_in: names that the study's tables set, and which table does.
    """
    set_by = dict(filled_in)

    def claim(path: str, where: str, values: Sequence[Any]) -> None:
        if not path.startswith(KNOB):
            _check_settable(path, where)
            _check_values(path, values, where)
        name = trainer.check_path(path, where)
        if any(isinstance(value, (list, dict)) for value in values):
            raise ValueError(f"{where}: a command takes numbers, text, true and false, got {values[0]!r}")
        if name in set_by:
            raise ValueError(f"{where}: {name} is also set by {set_by[name]}; keep one of the two")
        set_by[name] = where

    for path, value in leaves(base):
        claim(path, f"base.{path}", [value])
    for path, axis in space.items():
        claim(path, f'space."{path}"', axis.samples())
        for follower, ratio in axis.tie.items():
            claim(follower, f'space."{path}".tie."{follower}"', [ratio] if follower.startswith(KNOB) else [])


def check_corners(space: Space, build: Callable[[dict[str, Value]], object]) -> None:
    """`build` must accept both corners of the space, and every sampled value of an axis in either."""
    for params in _combinations({path: axis.samples() for path, axis in space.items()}):
        try:
            build(params)
        except ConfigError as error:
            shown = ", ".join(f"{path} = {value}" for path, value in params.items())
            raise ValueError(f"space: the combination {shown} cannot run: {error}") from error


def check_judgeable(space: Space, problem: Callable[[dict[str, Value]], str]) -> None:
    """`problem` must have nothing to say of the corners of the space."""
    for params in _combinations({path: axis.samples() for path, axis in space.items()}):
        told = problem(params)
        if told:
            blamed = [f"{path} = {value}" for path, value in params.items() if path.startswith(("export.", "eval."))]
            raise ValueError(f"{told}{', with ' + ', '.join(blamed) if blamed else ''}")


def check_points(
    space: Space, points: Sequence[Mapping[str, Value]], build: Callable[[dict[str, Value]], object]
) -> None:
    """Every point has a value on every axis, and makes a config."""
    for place, point in enumerate(points):
        try:
            build(check(space, point))
        except (SweeperError, ConfigError) as error:
            raise ValueError(f"points[{place}]: {error}") from error


def check_pruned_on(on: str | None, rungs: Sequence[float], ladder: Sequence[float], space: Space) -> None:
    """What trials are pruned on is there in every trial, and means the same in each.

    Args:
        ladder: its budgets as shares of the whole.
    """
    percents = [round(100 * share) for share in ladder]  # what Optuna files them under
    if on == "cooled" and not ladder:
        raise ValueError(
            'pruner.on is "cooled", and there are no cooled outcomes without a budget.ladder: name smaller budgets, as '
            'ladder = [60, 180] (a [cpu] table with a length has a ladder of its own), or prune on "raw"'
        )
    if on == "cooled" and (percents[0] < 1 or percents[-1] > 99 or len({*percents}) < len(percents)):
        told = ", ".join(f"{percent} %" for percent in percents)
        raise ValueError(f'pruner.on is "cooled": the ladder\'s budgets are rungs, at least 1 % apart; got {told}')
    if on in ("raw", "forecast") and not rungs:
        raise ValueError('budget.rungs is empty: pruning needs a rung, or pruner = { type = "none" }')
    moved = [path for axis in space.items() for path in (axis[0], *axis[1].tie) if path.startswith("schedule.")]
    if on == "forecast" and moved:
        raise ValueError(
            f'pruner.on is "forecast", and {moved[0]} differs between trials: finished ones foretell only '
            'those with the same schedule; take it out of [space], or prune on "raw"'
        )


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """A pydantic error as lines of `path: what is wrong, got value`, with near misses of unknown keys."""
    known = sorted(_field_names(model))
    lines = []
    for detail in error.errors(include_url=False):
        # Axes are keyed by paths, which hold dots themselves.
        parts = [f'"{part}"' if "." in str(part) else str(part) for part in _real_location(detail["loc"])]
        path = ".".join(parts)
        if detail["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key{did_you_mean(str(detail['loc'][-1]), known)}")
        elif detail["type"] == "missing":
            lines.append(f"{path}: missing; this key is required")
        elif detail["type"] == "value_error":  # ours: the message names the value itself
            lines.append(f"{path}: {detail['msg'].removeprefix('Value error, ')}")
        else:
            message = detail["msg"]
            lines.append(f"{path}: {message[0].lower()}{message[1:]}, got {_brief(detail['input'])}")
    return "\n".join(lines)


def _check_settable(path: str, where: str) -> None:
    known = config_paths()
    if path.startswith(KNOB):
        raise ValueError(f"{where}: {path} is a knob of a command, and the study has none: [trainer] command names one")
    if path not in known:
        part = path.partition(".")[0]
        keys = [name.removeprefix(f"{part}.") for name in known if name.startswith(f"{part}.")]
        if path == part and keys:
            raise ValueError(f"{where} must be a table of values: {part} takes {', '.join(keys)}")
        hint = did_you_mean(path, known) or (f"; {part} takes {', '.join(keys)}" if keys else "")
        raise ValueError(f"{where}: there is no config path {path!r}{hint}")
    if path in OWNED:
        raise ValueError(f"{where}: {path} is set by {OWNED[path]}, not here")


def _check_type(path: str, axis: Axis) -> None:
    _check_values(path, axis.samples(), f'space."{path}"', "the axis holds")


def _check_values(path: str, values: Sequence[Any], where: str, verb: str = "got") -> None:
    hint = config_paths()[path]
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    kinds = {
        float: ("a number", (int, float)),
        int: ("a whole number", (int,)),
        bool: ("true or false", (bool,)),
    }
    expected, allowed = kinds.get(hint, ("a string", (str,)))
    for value in values:
        wrong_bool = isinstance(value, bool) and hint is not bool
        if wrong_bool or not isinstance(value, allowed):
            raise ValueError(f"{where}: {path} takes {expected}, {verb} {value!r}")


def _combinations(samples: dict[str, list[Value]]) -> Iterator[dict[str, Value]]:
    count = 1
    for values in samples.values():
        count *= len(values)
    if count <= MOST_COMBINATIONS:
        for combination in itertools.product(*samples.values()):
            yield dict(zip(samples, combination, strict=True))
        return
    for corner in (
        {path: values[0] for path, values in samples.items()},
        {path: values[-1] for path, values in samples.items()},
    ):
        yield corner
        for path, values in samples.items():
            for value in values[1:-1]:
                yield {**corner, path: value}


def _field_names(model: type[BaseModel]) -> set[str]:
    names: set[str] = set()
    for part in model.model_json_schema()["$defs"].values():
        names |= set(part.get("properties", ()))
    return names | set(model.model_fields)


def _real_location(location: tuple[int | str, ...]) -> list[int | str]:
    """Without the tags that pydantic adds for unions, such as the second `log` of space.x.log.log."""
    real: list[int | str] = []
    for position, part in enumerate(location):
        after_axis = position >= 2 and location[position - 2] == "space"
        after_pruner = position >= 1 and location[position - 1] in ("pruner", "sampler")
        if not after_axis and not after_pruner:
            real.append(part)
    return real


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
