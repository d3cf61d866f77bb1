"""Rows of tables as runs: what its cells say of a run, whether it ended, whether it diverged, which run it is."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sweeper.importing.names import ROLES, Names, convert, number, scaled
from sweeper.importing.runs import THERE, Run, Skipped, checked, identity_of
from sweeper.importing.tables import Cells, Table
from trainer.events import End, Eval, Event, Outcome

COMPLETE = ("", "complete", "completed", "finished", "done", "success", "succeeded", "ok")
ENDED = {"pruned": "pruned", "stopped": "stopped", "diverged": "diverged"}
"""States of runs that count although they have no score; of others than these two lists only what diverged does."""
BROKEN = ("fail", "failed", "crashed", "crash", "killed", "error")
"""States of runs that broke off; one whose loss was no finite number by then had diverged."""
LATEST = 1e10
"""Unix seconds; what is later are milliseconds, or no time at all."""
NO_VALUE = ("", "nan", "none", "null", "n/a", "-")
LOSSES = ("score", "val_loss", "train_loss")
"""In the order in which they are believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """What a table says."""

    runs: list[Run | Skipped]
    used: dict[str, str]
    """Column by what it stands for."""
    unused: list[str]
    examples: dict[str, tuple[str, str]]
    """By what it stands for: the first cell, and what it is read as."""


def understand(table: Table, names: Names, known: Collection[str], constants: Cells) -> Understood:
    """The runs of a table.

    Args:
        known: identities of runs that are stored.
        constants: by what they stand for: cells that every row has where it has none of its own.
    """
    chosen, unused = names.choose(table.columns)
    absent = [*names.missing(table.columns), *([] if "score" in chosen else ["the score, val_bpb"])]
    missing = f"{', '.join(absent)}; the table has {', '.join(table.columns)}"
    factors = {target: names.factor(column) for target, column in chosen.items()}
    reader = _Reader(factors, nan_is_missing=_nan_is_missing(table, chosen))
    identities = _Identities(chosen)
    found: list[Run | Skipped] = list(table.broken)
    for place, (where, cells) in enumerate(table.rows):
        if absent:
            found.append(Skipped(source=where, reason="a missing column", detail=missing))
            continue
        meant = {target: cells.get(column) for target, column in chosen.items()}
        meant |= {target: value for target, value in constants.items() if _is_empty(meant.get(target))}
        run = reader.read(where, meant, table.curves.get(place, []))
        if isinstance(run, Run):
            earlier, run.identity = run.identity, identities.of(cells, meant)
            if run.identity in known or earlier in known:
                run = Skipped(source=where, reason=THERE)
        found.append(run)
    examples = {target: _example(table, target, column, factors[target]) for target, column in chosen.items()}
    return Understood(runs=found, used=chosen, unused=unused, examples=examples)


class _Identities:
    """Which run a row is of, so that it stays the same run under another mapping, file name or order of columns.

    A run that has a name or an id and a time is known by them; any other, and a second one of that name and time, by
    all its cells.
    """

    def __init__(self, chosen: Mapping[str, str]) -> None:
        self._named = "created" in chosen and ("id" in chosen or "name" in chosen)
        self._first: dict[str, str] = {}

    def of(self, cells: Cells, meant: Cells) -> str:
        whole = identity_of("cells", {column: text for column, raw in cells.items() if (text := _text_of(raw))})
        who = [_text_of(meant.get(target)) for target in ("id", "name")]
        created = _text_of(meant.get("created"))
        if not self._named or not any(who) or not created:
            return whole
        named = identity_of("named", *who, created)
        return named if self._first.setdefault(named, whole) == whole else whole


def _nan_is_missing(table: Table, chosen: Mapping[str, str]) -> bool:
    """Whether the table writes NaN where it has no value, as pandas does when it is told to."""
    losses = {chosen.get(target) for target in LOSSES}
    return any(
        isinstance(raw, str) and raw.strip().lower() == "nan"
        for _, cells in table.rows for column, raw in cells.items()
        if column not in losses and "loss" not in column.lower()
    )  # fmt: skip


def _example(table: Table, target: str, column: str, factor: float) -> tuple[str, str]:
    raw = next((cells[column] for _, cells in table.rows if not _is_empty(cells.get(column))), None)
    if raw is None:
        return "", "no value"
    try:
        if target in ("state", "name", "id", "device_name"):
            return _text_of(raw), _text_of(raw)
        if target == "created":
            return _text_of(raw), "a time" if _time(raw) is not None else "no time"
        value = _figure(target, raw, factor) if target in ROLES else convert(target, scaled(raw, factor))
        return _text_of(raw), f"{value:.6g}" if isinstance(value, float) else str(value)
    except ValueError as error:
        return _text_of(raw), str(error)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the rows of one table."""

    factors: Mapping[str, float]
    nan_is_missing: bool

    def read(self, where: str, cells: Cells, curve: Sequence[tuple[int, float]]) -> Run | Skipped:
        """The run; its identity is the one that earlier versions gave it."""
        state = _text_of(cells.get("state")).lower().removeprefix("trialstate.")
        lost = self._lost(cells, state, curve)
        if not lost and state not in COMPLETE and state not in ENDED:
            return Skipped(source=where, reason="it did not finish", detail=_unfinished(cells))
        sorted_out = self._sort_out(where, cells)
        if isinstance(sorted_out, Skipped):
            return sorted_out
        values, figures = sorted_out
        identity = identity_of(_key(cells), state, values, figures, curve)
        _complete_figures(values, figures)
        if state in COMPLETE and not lost and "score" not in figures:
            return Skipped(source=where, reason="no score", detail=f"{cells.get('score')!r} where val_bpb belongs")
        name = _text_of(cells.get("name")) or _text_of(cells.get("id")) or where
        created = _time(cells.get("created"))
        run = Run(
            source=where, identity=identity, name=name, values=values, started_at=created,
            device_name=_text_of(cells.get("device_name"))[:200],
        )  # fmt: skip
        finite = [(step, value) for step, value in curve if math.isfinite(value)]
        run.tell(_events(figures, "diverged" if lost else ENDED.get(state, "complete"), lost, finite), created or 0.0)
        if lost and (share := _share(state, values, figures)) is not None:
            run.progress = share
        if "parameters" in figures:
            run.parameters = int(figures["parameters"])
        run.wall_seconds = figures.get("wall_seconds", run.seconds)
        run.train_loss = figures.get("train_loss")
        if run.state in ("pruned", "stopped") and run.val_bpb is None:
            run.val_bpb = figures.get("score")
        return checked(run)

    def _lost(self, cells: Cells, state: str, curve: Sequence[tuple[int, float]]) -> str:
        """How the row says that the run diverged, in words; empty where it does not.

        The first loss that is there decides: a finite score is a score whatever else is not finite.
        """
        if state not in COMPLETE and state not in ENDED and state not in BROKEN:
            return ""
        if state in BROKEN and self.nan_is_missing:
            return ""
        for target in LOSSES:
            text = _text_of(cells.get(target)).lower()
            if text == "nan" or (text not in NO_VALUE and _is_infinite(text)):
                return f"{'val_bpb' if target == 'score' else target} is {text}"
            if text not in NO_VALUE:
                return ""
        if curve and not math.isfinite(curve[-1][1]):
            return f"val_bpb is {curve[-1][1]:g} at step {curve[-1][0]}"
        return ""

    def _sort_out(self, where: str, cells: Cells) -> tuple[dict[str, Any], dict[str, float]] | Skipped:
        """Hyperparameters by path, and figures by role, of what the row has."""
        values: dict[str, Any] = {}
        figures: dict[str, float] = {}
        for target, raw in cells.items():
            if target in ("state", "name", "id", "created", "device_name") or _is_empty(raw):
                continue
            if target in LOSSES and _is_infinite(_text_of(raw)):
                continue
            try:
                if target in ROLES:
                    figures[target] = _figure(target, raw, self.factors.get(target, 1.0))
                else:
                    values[target] = convert(target, scaled(raw, self.factors.get(target, 1.0)))
            except ValueError as error:
                return Skipped(source=where, reason="a value that does not parse", detail=f"{target}: {error}")
        return values, figures


def _key(cells: Cells) -> str:
    return _text_of(cells.get("id")) or _text_of(cells.get("name"))


def _complete_figures(values: Mapping[str, Any], figures: dict[str, float]) -> None:
    """Tokens of steps, and steps of tokens, by the batch; laws are fitted of runs that have both."""
    batch = float(values.get("data.batch_tokens") or 0)
    if batch > 0 and "tokens" not in figures and "steps" in figures:
        figures["tokens"] = batch * figures["steps"]
    elif batch > 0 and "steps" not in figures and "tokens" in figures:
        figures["steps"] = figures["tokens"] / batch


def _unfinished(cells: Cells) -> str:
    return f"its state is {cells.get('state')!r}; finished are {', '.join(COMPLETE[1:])}"


def _share(state: str, values: Mapping[str, Any], figures: Mapping[str, float]) -> float | None:
    """How much of its budget a run that diverged had done; None where nothing says."""
    for unit in ("steps", "tokens", "seconds"):
        budget = float(values.get(f"budget.{unit}") or 0)
        if budget > 0 and unit in figures:
            return min(1.0, figures[unit] / budget)
    return 1.0 if state in COMPLETE else None  # its script went on to the end


def _figure(target: str, raw: Any, factor: float) -> float:
    return factor * (_seconds(raw) if target.endswith("seconds") else number(raw))


def _is_infinite(text: str) -> bool:
    """Of `nan`, `-inf`, `Infinity` and the like, and of numbers too large to be any."""
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return False


def _events(
    figures: Mapping[str, float], state: str, detail: str, curve: Sequence[tuple[int, float]]
) -> Iterator[Event]:
    """What such a run would have said."""
    last = max((step for step, _ in curve), default=0)
    step, tokens = int(figures.get("steps", last)), int(figures.get("tokens", 0))
    reached: dict[str, Any] = {"step": step, "tokens": tokens, "seconds": figures.get("seconds", 0.0)}
    for at, val_bpb in curve:
        share = at / last if last > 0 else 1.0
        yield Eval(
            step=at, tokens=round(share * tokens), seconds=share * reached["seconds"], progress=share, fraction=share,
            val_loss=0.0, val_bpb=val_bpb, val_tokens=0, eval_seconds=0.0,
        )  # fmt: skip
    if state == "complete":
        val_loss = figures.get("val_loss", 0.0)
        yield Outcome(**reached, val_loss=val_loss, val_bpb=figures["score"], val_tokens=0)
    yield End(reason=state, detail=detail, wall_seconds=figures.get("wall_seconds", reached["seconds"]), **reached)


def _is_empty(raw: Any) -> bool:
    return _text_of(raw).lower() in NO_VALUE


def _text_of(raw: Any) -> str:
    return "" if raw is None else str(raw).strip()


def _seconds(raw: Any) -> float:
    """A number, or what pandas writes: `0 days 00:10:00.5`."""
    text = _text_of(raw)
    days, found, clock = text.partition(" days ")
    if not found:
        return number(raw)
    hours, minutes, seconds = clock.split(":")
    return 86400 * number(days) + 3600 * number(hours) + 60 * number(minutes) + number(seconds)


def _time(raw: Any) -> float | None:
    """Unix seconds of Unix seconds, or of a date as ISO 8601 has it; None where it is neither."""
    text = _text_of(raw)
    try:
        seconds = number(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return seconds if 0 < seconds < LATEST else None
