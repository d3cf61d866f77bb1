"""Nested plain values into frozen dataclasses, with the dotted path in every complaint.  Standard library only."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A config value that cannot work; the message names the value, the expectation and the remedy."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def build(kind: type[T], values: Any, path: str) -> T:
    """`kind` from a table of values; parts that are dataclasses themselves from nested tables.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, or one that the class itself rejects.
    """
    require(isinstance(values, dict), f"{path or 'the config'} must be a table of values, got {values!r}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    where = f"{path}." if path else ""
    require(
        not unknown,
        f"unknown config key {where}{unknown[0] if unknown else ''}: "
        f"{path or 'the config'} takes {', '.join(sorted(hints))}",
    )
    return kind(**{key: _convert(hints[key], value, f"{where}{key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        require(value in choices, f"{path} must be one of {', '.join(map(repr, choices))}, got {value!r}")
        return value
    if origin is types.UnionType:
        if value is None:
            return None
        (inner,) = (arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        return _convert(inner, value, path)
    if origin is tuple:
        require(isinstance(value, (list, tuple)), f"{path} must be a list, got {value!r}")
        return tuple(_convert(typing.get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    return _scalar(hint, value, path)


def _scalar(hint: type, value: Any, path: str) -> Any:
    wrong = f"{path} must be {'a number' if hint is float else hint.__name__}, got {value!r}"
    if hint is float:
        require(isinstance(value, (int, float)) and not isinstance(value, bool), wrong)
        require(value == value and abs(value) != float("inf"), f"{path} must be finite, got {value!r}")
        return float(value)
    if hint is int:
        require(isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value), wrong)
        return int(value)
    require(isinstance(value, hint), wrong)
    return value
