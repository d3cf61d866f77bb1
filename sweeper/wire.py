"""Events as they come off the wire: checked field by field, and made fit for any database.

A trainer may be of another version, or not ours at all.  What is no event becomes a message of kind
`invalid`, so that a person can read it; nothing that a trainer says makes a delivery fail.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from typing import Any

from trainer import events

LONGEST_TEXT = 100_000
"""Characters kept of one text; the rest is cut."""
DEEPEST = 20
WIDEST = {"step": 2**31 - 1, "resumed_step": 2**31 - 1}
"""Largest values of the columns that are not 64 bits wide."""


def parse(raw: dict[str, Any]) -> tuple[str, events.Event | None, dict[str, Any]]:
    """The message kind, the event (None for `log` and `invalid`), and the body to store.

    The kind is the event's own, `log` or `invalid`.
    """
    clean: dict[str, Any] = tidy(raw)
    body = {key: value for key, value in clean.items() if key != "event"}
    if clean.get("event") == "log":
        return "log", None, body
    try:
        event = events.from_dict(clean)
        _check(event)
    except (ValueError, TypeError) as error:
        return "invalid", None, {"problem": tidy(str(error)), "event": clean}
    return event.kind, event, body


def tidy(value: Any, depth: int = 0) -> Any:
    """The value without what a database cannot hold: NUL, lone surrogates, infinities, endless text or nesting."""
    if depth > DEEPEST:
        return "… (nested too deeply)"
    if isinstance(value, str):
        text = value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
        return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " … (cut)"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {tidy(str(key)): tidy(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [tidy(item, depth + 1) for item in value]
    return value


def _check(event: events.Event) -> None:
    """Raise ValueError for a field of another type than the event declares, or out of a column's range."""
    for name, hint in _fields(event.kind).items():
        value = getattr(event, name)
        if not _fits(value, hint):
            raise ValueError(f"event {event.kind}: {name} must be {hint}, got {value!r:.200}")
        if isinstance(value, int) and not -(2**63) <= value <= WIDEST.get(name, 2**63 - 1):
            raise ValueError(f"event {event.kind}: {name} is out of range: {value}")


@functools.cache
def _fields(kind: str) -> dict[str, Any]:
    event = events.EVENTS[kind]
    hints = typing.get_type_hints(event)
    return {item.name: hints[item.name] for item in dataclasses.fields(event)}


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if (origin := typing.get_origin(hint)) in (dict, list):
        return isinstance(value, origin)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)
