"""What varies between imported runs, as the axes of a study; what does not, as its base.

The first import settles which paths are axes: later runs cannot add one, as the trials that are there might have no
value on it.  What an axis holds follows the runs: ranges widen, choices are added, and an axis becomes what it would
have been had all runs come at once.  Where that is another distribution in Optuna, `recode` rewrites the trials that
are there; once the study has drawn trials of its own, only ranges widen.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from sweeper import command
from sweeper.command import KNOB
from sweeper.errors import SweeperError
from sweeper.importing.names import paths
from sweeper.importing.runs import Run, Skipped
from sweeper.scores import Judge
from sweeper.space import ChoiceAxis, IntAxis, LogAxis, UniformAxis, Value
from sweeper.study import StudySpec, verify
from sweeper.study_checks import OWNED, explain, leaves

COMMAND = "python train_gpt.py"
"""What runs are taken for runs of, unless a mapping says better: it matters only if the study is resumed."""
MOST_CHOICES = 6
LOG_FACTOR = 3.0
MOST_FINAL = ("quantised_sliding", "quantised", "sliding")
"""Scores in the order in which they judge where every run has them; else the plain one does."""
SIZES = {f"{KNOB}parameters": "parameters", f"{KNOB}tokens": "tokens", f"{KNOB}steps": "step"}
"""Attributes of a Run by the axes that they are where no hyperparameter is known: laws of loss need no more."""
UNITS = {"budget.seconds": "seconds", "budget.steps": "steps", "budget.tokens": "tokens"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A study that fits the runs."""

    spec: StudySpec
    runs: list[Run]
    """Those that lie on its axes and can be judged by it."""
    skipped: list[Skipped]
    notes: list[str]


def fit(
    runs: Sequence[Run], name: str, *, old: StudySpec | None, resumed: bool, judge: Judge | None, command_line: str,
    source: str, hint: str,
) -> Fit:  # fmt: skip
    """The study `name` for these runs: a new one, or the old one with wider axes.

    Args:
        resumed: whether it has drawn trials of its own.
        source: where the runs come from, for the description.
        hint: what to map, should no hyperparameter be known; may be empty.

    Raises:
        SweeperError: no run has a hyperparameter, or a study that cannot be.
    """
    if old is not None:
        if judge is not None and judge != old.judge:
            raise SweeperError(f"study {name} is judged by the {old.judge} score: import into another one for {judge}")
        space, base = dict(old.space), dict(leaves(old.base))
        _take_sizes(runs, [path for path in SIZES if path in space or path in base])
        kept, skipped = _agreeing(runs, list(space), base)
        kept, off = _on_axes(kept, space, resumed=resumed)
        skipped += off
        notes = _changes(old, space)
    else:
        space, base, notes = _derive(runs, name, hint)
        kept, skipped = _agreeing(runs, list(space), base)
        space = {path: _axis(path, [run.values[path] for run in kept]) for path in space} if kept else space
    judged_by: Judge = old.judge if old else (judge or _judge(kept))
    kept, unjudged = _judgeable(kept, judged_by)
    spec = _spec(name, space, base, kept, old, judged_by, command_line, source)
    try:
        verify(spec)
    except SweeperError as error:
        notes.append(f"it cannot be resumed as it is: {str(error).splitlines()[0]}")
    if lost := sum(run.state == "diverged" for run in kept):
        notes.append(f"{lost:,} diverged, as their loss is no finite number: they count for the ceiling of the "
                     "learning rate and in no other fit")  # fmt: skip
    return Fit(spec=spec, runs=kept, skipped=[*skipped, *unjudged], notes=notes)


def is_axis(path: str) -> bool:
    """Whether it may be searched; seeds may not, as runs that differ in nothing else are repeats."""
    return path not in OWNED and not path.startswith(("seeds.", "runtime.", "checkpoint."))


def _derive(runs: Sequence[Run], name: str, hint: str) -> tuple[dict[str, Any], dict[str, Value], list[str]]:
    """Axes to be, by path, values that all share, and what to say of the rest."""
    notes = []
    if not any(is_axis(path) for run in runs for path in run.values):
        if not _take_sizes(runs, [f"{KNOB}parameters", f"{KNOB}tokens"]):
            _take_sizes(runs, [f"{KNOB}steps"])
        notes = ["the axes are the sizes of the runs, as no hyperparameter is known of them"]
    seen: dict[str, list[Value]] = {}
    for run in runs:
        for path, value in run.values.items():
            seen.setdefault(path, []).append(value)
    open_to_search = {path: values for path, values in seen.items() if is_axis(path)}
    if not open_to_search:
        raise SweeperError(
            f"study {name} would have no axis: of {len(runs)} runs none has a known hyperparameter, parameters or "
            f"tokens; name them with --map COLUMN=PATH{f', such as {hint}' if hint else ''}, or give what is the same "
            "for all with --set PATH=VALUE, such as data.batch_tokens=524288"
        )
    rare = [path for path, values in open_to_search.items() if 2 * len(values) < len(runs)]
    common = {path: values for path, values in open_to_search.items() if path not in rare} or open_to_search
    varying = [path for path, values in common.items() if len(set(map(_marked, values))) > 1]
    axes = varying or list(common)[:1]
    base = {path: values[0] for path, values in common.items() if path not in axes and len(values) == len(runs)}
    notes += [f"{path} is known of fewer than half of the runs, and is no axis" for path in rare if path not in axes]
    if not varying:
        notes.append("no hyperparameter differs between the runs: the only axis has one value")
    return dict.fromkeys(axes), base, notes


def _take_sizes(runs: Sequence[Run], paths: Sequence[str]) -> bool:
    """Let what these paths stand for be among the values of the runs, where they say it; whether any does."""
    sized = [(run, path, size) for run in runs for path in paths if (size := getattr(run, SIZES[path]))]
    for run, path, size in sized:
        run.values[path] = size
    return bool(sized)


def _marked(value: Value) -> tuple[bool, Value]:
    return isinstance(value, bool), value  # 1 and True are two values


def _axis(path: str, values: Sequence[Value]) -> Any:
    distinct = list(dict.fromkeys(values))
    if any(isinstance(value, (bool, str)) for value in distinct):
        return ChoiceAxis(choice=tuple(sorted(distinct, key=lambda value: (isinstance(value, str), value))))
    numbers = sorted(float(value) for value in distinct)
    low, high = numbers[0], numbers[-1]
    whole = paths().get(path) is int or (path.startswith(KNOB) and all(isinstance(v, int) for v in distinct))
    if low == high or (whole and len(numbers) <= MOST_CHOICES):
        return ChoiceAxis(choice=tuple(sorted(distinct, key=float)))
    wide = low > 0 and high / low > LOG_FACTOR
    if whole:
        return IntAxis(int=(int(low), int(high)), log=wide)
    return LogAxis(log=(low, high)) if wide else UniformAxis(uniform=(low, high))


def _agreeing(runs: Sequence[Run], axes: Sequence[str], base: dict[str, Value]) -> tuple[list[Run], list[Skipped]]:
    """Runs with a value on every axis, and no other value than the base has."""
    kept, skipped = [], []
    for run in runs:
        missing = [path for path in axes if path not in run.values]
        other = [path for path, value in base.items() if run.values.get(path, value) != value]
        if missing:
            detail = f"{', '.join(missing)}, searched by the study"
            skipped.append(Skipped(source=run.source, reason="no value on an axis", detail=detail))
        elif other:
            detail = ", ".join(f"{path} = {run.values[path]} where the study has {base[path]}" for path in other)
            skipped.append(Skipped(source=run.source, reason="another base than the study's", detail=detail))
        else:
            kept.append(run)
    return kept, skipped


def _on_axes(runs: Sequence[Run], space: dict[str, Any], *, resumed: bool) -> tuple[list[Run], list[Skipped]]:
    """Runs that lie on the axes once these are widened for them, which `space` is."""
    kept, skipped = [], []
    for run in runs:
        try:
            for path, axis in space.items():
                _check_place(path, axis, run.values[path], resumed=resumed)
            kept.append(run)
        except ValueError as error:
            detail = f"{path}: {error}; import into a study of another name"
            skipped.append(Skipped(source=run.source, reason="off an axis of the study", detail=detail))
    if kept:
        for path, axis in space.items():
            space[path] = _widened(path, axis, [run.values[path] for run in kept])
    return kept, skipped


def _check_place(path: str, axis: Any, value: Value, *, resumed: bool) -> None:
    """
    Raises:
        ValueError: the axis cannot be widened to hold the value.
    """
    if isinstance(axis, ChoiceAxis):
        if resumed:
            axis.accept(value)
        elif any(choice == value and isinstance(choice, bool) != isinstance(value, bool) for choice in axis.choice):
            raise ValueError(f"{value!r} equals one of {', '.join(map(repr, axis.choice))}, and is something else")
    elif isinstance(value, (bool, str)):
        raise ValueError(f"expected a number, got {value!r}")
    elif axis.is_log and value <= 0 and resumed:
        raise ValueError(f"{value!r} has no place on a log scale, on which the study has drawn trials of its own")


def _widened(path: str, axis: Any, values: Sequence[Value]) -> Any:
    if isinstance(axis, ChoiceAxis):
        new = [value for value in values if value not in axis.choice]
        return _axis(path, [*axis.choice, *new]) if new else axis
    numbers = [axis.low, axis.high, *map(float, values)]
    low, high = min(numbers), max(numbers)
    if (low, high) == (axis.low, axis.high):
        return axis
    if isinstance(axis, IntAxis):
        return IntAxis(int=(int(low), int(high)), log=axis.log and low > 0, tie=axis.tie)
    if isinstance(axis, LogAxis) and low > 0:
        return LogAxis(log=(low, high), tie=axis.tie)
    return UniformAxis(uniform=(low, high), tie=axis.tie)


def _changes(old: StudySpec, space: dict[str, Any]) -> list[str]:
    return [
        f"{path} was {_plain(axis)}, and is {_plain(space[path])} for all trials of the study"
        for path, axis in old.space.items()
        if space[path] != axis
    ]


def _plain(axis: Any) -> str:
    return json.dumps(axis.model_dump(mode="json", exclude_defaults=True))


def _judge(runs: Sequence[Run]) -> Judge:
    complete = [run for run in runs if run.state == "complete"]
    for name in MOST_FINAL:
        if complete and all(name in run.judged for run in complete):
            return name  # type: ignore[return-value]  # MOST_FINAL holds values of Judge
    return "final"


def _judgeable(runs: Sequence[Run], judge: Judge) -> tuple[list[Run], list[Skipped]]:
    kept = [run for run in runs if run.state != "complete" or judge in run.judged]
    lost = [run for run in runs if run.state == "complete" and judge not in run.judged]
    detail = f"the study judges by it; they have {', '.join(lost[0].judged) or 'none'}" if lost else ""
    return kept, [Skipped(source=run.source, reason=f"no {judge} score", detail=detail) for run in lost]


def _spec(
    name: str, space: dict[str, Any], base: dict[str, Value], runs: Sequence[Run],
    old: StudySpec | None, judge: Judge, command_line: str, source: str,
) -> StudySpec:  # fmt: skip
    plain = {path: axis.model_dump(mode="json", exclude_unset=True) for path, axis in space.items()}
    if old is not None:
        values = old.model_dump(mode="json") | {"space": plain}
    else:
        nested: dict[str, dict[str, Value]] = {}
        for path, value in base.items():
            part, _, key = path.partition(".")
            nested.setdefault(part, {})[key] = value
        values = {
            "name": name,
            "profile": "gpu",
            "description": f"Imported from {source}",
            "trials": max(1, len(runs)),
            "space": plain,
            "budget": {**_budget(runs), "rungs": []},
            "judge": judge,
            "pruner": {"type": "none"},
            "base": nested,
            "trainer": {"command": command_line or COMMAND, "names": _names([*space, *base])},
        }
    try:
        return StudySpec.model_validate(values)
    except ValidationError as error:
        raise SweeperError(f"these runs make no study: {explain(error, StudySpec)}") from error


def _names(paths: Iterable[str]) -> dict[str, str]:
    """Names for the paths that parameter-golf has none for."""
    return {
        path: path.rpartition(".")[2].upper()
        for path in paths
        if path not in command.NAMES and not path.startswith(KNOB)
    }


def _budget(runs: Sequence[Run]) -> dict[str, Any]:
    """The budget that most runs were given, else the length of the longest."""
    for path, unit in UNITS.items():
        given = Counter(run.values[path] for run in runs if float(run.values.get(path) or 0) > 0)
        if given and path != "budget.steps":
            return {unit: given.most_common(1)[0][0]}
    for unit, lengths in (
        ("seconds", [run.seconds for run in runs]),
        ("tokens", [run.tokens for run in runs]),
        ("steps", [run.step for run in runs]),
    ):
        if max(lengths, default=0) > 0:
            return {unit: max(lengths)}
    return {"steps": 1}
