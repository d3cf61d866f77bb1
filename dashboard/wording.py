"""Numbers and times as readers want them: the filters of the templates."""

from __future__ import annotations

import datetime
import json
from typing import Any

from dashboard.figures_runs import plus_minus, tokens_text
from sweeper.promotion_records import Phase
from sweeper.records import StudySummary

STATE_MARKS = {
    "complete": "●",
    "running": "▶",
    "pruned": "◇",
    "diverged": "✕",
    "stopped": "□",
    "failed": "!",
    "waiting": "…",
    "paused": "⏸",
    "PASS": "✓",
    "FAIL": "✕",
    "not yet": "…",
    "not known": "?",
}
"""A shape beside the colour of every state, for readers who do not see the colour."""


def bpb(value: float | None) -> str:
    """A score with four decimals, or a dash."""
    return "–" if value is None else f"{value:.4f}"


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that matter."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def value(number: Any) -> str:
    """A searched value: up to four significant digits, whole numbers in full."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return str(number)
    whole = isinstance(number, int) or (number.is_integer() and abs(number) < 1e12)
    return f"{int(number):,}" if whole else f"{number:.4g}"


def percent(share: float | None) -> str:
    """A share as whole percent."""
    return "–" if share is None else f"{share:.0%}"


def count(number: float | None) -> str:
    """A count with a unit letter."""
    return "–" if number is None else tokens_text(number)


def gibibytes(size: int) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:.2f} GiB"


def megabytes(size: int) -> str:
    """Bytes as MB of a million bytes, as limits of artifacts are given."""
    return f"{size / 1e6:.3f} MB"


def judged_by(study: StudySummary) -> str:
    """Which score ranks in a study, in the words of a heading."""
    return study.unit.heading(study.judge)


def limits(constraints: dict[str, int]) -> str:
    """A study's limits in a few words."""
    return ", ".join(f"{name.replace('_', ' ')} ≤ {limit:,}" for name, limit in constraints.items())


def moment(at: float | None) -> str:
    """Unix seconds as an ISO time in UTC, which the page's script turns into the reader's own."""
    if at is None:
        return ""
    return datetime.datetime.fromtimestamp(at, tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock(at: float | None) -> str:
    """Unix seconds for people, in UTC."""
    return "–" if at is None else moment(at).replace("T", " ").replace("Z", " UTC")


def rate(phase: Phase) -> str:
    """The rate of a phase as a share of the peak: `1`, `1 → 0.1 cosine`, the warm-up behind it."""
    factor = value(phase.lr) if phase.final_lr is None else f"{value(phase.lr)} → {value(phase.final_lr)} {phase.shape}"
    return f"{factor}, warm-up {phase.warmup:.0%}" if phase.warmup else factor


def mark(state: str) -> str:
    """The shape of a state."""
    return STATE_MARKS.get(state, "•")


def effective(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what has no say in it: the other family's values, a schedule beside phases, what is empty."""
    model, phases = config.get("model") or {}, (config.get("plan") or {}).get("phases")
    idle = {"schedule"} if phases else {"plan"}
    idle |= set() if model.get("family") == "helix" else {"helix"}
    idle |= set() if (config.get("ladder") or {}).get("budgets") else {"ladder"}
    shown = {section: values for section, values in config.items() if section not in idle}
    if "helix" in shown:
        shown["model"] = {key: model[key] for key in ("family", "vocab_size") if key in model}
    return shown


def flatten(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """A nested config as dotted paths and values, in its order."""
    lines: list[tuple[str, Any]] = []
    for key, inner in config.items():
        if isinstance(inner, dict):
            lines += flatten(inner, f"{prefix}{key}.")
        else:
            lines.append((prefix + key, inner))
    return lines


def detail(values: dict[str, Any]) -> str:
    """An audit line's detail in one line, such as `trial 3 · pruned · behind at 30 %`."""
    told = {key: inner for key, inner in values.items() if key not in INTERNAL and inner not in (None, "")}
    pieces = []
    if "kind" in told and "number" in told:
        pieces.append(f"{told.pop('kind')} {told.pop('number')}")
    for key, inner in told.items():
        text = inner if isinstance(inner, str) else json.dumps(inner)
        pieces.append(text if key in SELF_EXPLAINING else f"{key.replace('_', ' ')} {text}")
    return " · ".join(pieces)


INTERNAL = ("run", "lease")
"""Row numbers, of no use to a reader."""
SELF_EXPLAINING = ("state", "reason")


FILTERS = {
    function.__name__: function
    for function in (
        *(bpb, plus_minus, duration, value, percent, count, gibibytes, megabytes, limits, judged_by),
        *(moment, clock, rate, mark, flatten, effective, detail),
    )
}
