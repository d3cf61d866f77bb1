"""Rows of tables as runs: what its cells say of a run, whether it ended, whether it diverged, which run it is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeper.importing import figures as derived
from sweeper.importing.names import ROLES, Names, convert, number, scaled
from sweeper.importing.runs import BITS, NATS, THERE, Run, Skipped, checked, identity_of
from sweeper.importing.tables import Cells, Table
from sweeper.importing.units import bits_per_byte, is_loss
from trainer.events import End, Eval, Event, Outcome

COMPLETE = ("", "complete", "completed", "finished", "done", "success", "succeeded", "ok")
ENDED = {"pruned": "pruned", "stopped": "stopped", "diverged": "diverged"}
"""States of runs that count although they have no score; of others than these two lists only what diverged does."""
BROKEN = ("fail", "failed", "crashed", "crash", "killed", "error")
"""States of runs that broke off; one whose loss was no finite number by then had diverged."""
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
    score_unit: str = BITS
    notes: tuple[str, ...] = ()


def understand(
    table: Table, names: Names, known: Collection[str], constants: Cells, bytes_per_token: float | None = None
) -> Understood:
    """The runs of a table.

    Where it has a loss in nats per token and no val_bpb, the loss is the score.

    Args:
        known: identities of runs that are stored.
        constants: by what they stand for: cells that every row has where it has none of its own.
        bytes_per_token: of the validation text, which makes bits per byte of such a loss; None leaves it in nats.
    """
    chosen, unused = names.choose(table.columns)
    scored = "score" in chosen or "val_loss" in chosen
    absent = [*names.missing(table.columns), *([] if scored else ["the score, val_bpb"])]
    missing = f"{', '.join(absent)}; the table has {', '.join(table.columns)}"
    factors = {target: names.factor(column) for target, column in chosen.items()}
    nats = "score" not in chosen or is_loss(chosen["score"], factors["score"])
    reader = _Reader(factors, _nan_is_missing(table, chosen), nats=nats, bytes_per_token=bytes_per_token)
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
    return Understood(
        runs=found, used=chosen, unused=unused, examples=examples, score_unit=NATS if nats else BITS,
        notes=tuple(reader.contradictions),
    )  # fmt: skip


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
            return _text_of(raw), "a time" if derived.moment(raw) is not None else "no time"
        value = _figure(target, raw, factor) if target in ROLES else convert(target, scaled(raw, factor))
        return _text_of(raw), f"{value:.6g}" if isinstance(value, float) else str(value)
    except ValueError as error:
        return _text_of(raw), str(error)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the rows of one table."""

    factors: Mapping[str, float]
    nan_is_missing: bool
    nats: bool
    """Whether scores are losses in nats per token."""
    bytes_per_token: float | None
    broken: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Where figures contradict each other, by the rule that they break."""

    @property
    def contradictions(self) -> Iterator[str]:
        for rule, places in self.broken.items():
            less = f"{derived.MISMATCH:.0%}"
            yield (
                f"{rule} in all but {len(places):,} rows, where they differ by over {less}, as in {places[0]}; "
                "what stands for tokens counts"
            )

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
        for rule, numbers in derived.complete(values, figures):
            self.broken[rule].append(f"{where}: {numbers}")
        self._score(figures)
        if state in COMPLETE and not lost and "score" not in figures:
            return Skipped(source=where, reason="no score", detail=f"{cells.get('score')!r} where val_bpb belongs")
        name = _text_of(cells.get("name")) or _text_of(cells.get("id")) or where
        created = derived.moment(cells.get("created"))
        run = Run(
            source=where, identity=identity, name=name, values=values, started_at=created,
            device_name=_text_of(cells.get("device_name"))[:200],
            score_unit=NATS if self.nats and self.bytes_per_token is None else BITS,
        )  # fmt: skip
        finite = [(step, value) for step, value in curve if math.isfinite(value)]
        run.tell(_events(figures, "diverged" if lost else ENDED.get(state, "complete"), lost, finite), created or 0.0)
        if lost and (share := _share(state, values, figures)) is not None:
            run.progress = share
        if "parameters" in figures:
            run.parameters = round(figures["parameters"])
        run.wall_seconds = figures.get("wall_seconds", run.seconds)
        run.train_loss = figures.get("train_loss")
        if run.state in ("pruned", "stopped") and run.val_bpb is None:
            run.val_bpb = figures.get("score")
        return checked(run)

    def _score(self, figures: dict[str, float]) -> None:
        """The loss as the score, where the table has no other; in bits per byte, where that can be told."""
        if not self.nats:
            return
        loss = figures.get("score", figures.get("val_loss"))
        if loss is not None:
            figures.setdefault("val_loss", loss)
            bytes_each = self.bytes_per_token
            figures["score"] = loss if bytes_each is None else bits_per_byte(loss, bytes_each)

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
    return factor * (derived.seconds(raw) if target.endswith("seconds") else number(raw))


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
    step, tokens = round(figures.get("steps", last)), round(figures.get("tokens", 0))
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
