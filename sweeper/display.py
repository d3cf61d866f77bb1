"""A study in the terminal: the records of the read API as rich renderables and as plain lines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeper.protocol import PromotionPlan
from sweeper.scores import ScoreUnit, label
from sweeper.transferred import CONFIRM, WORDS, Transfer

Record = dict[str, Any]
"""A JSON object of the read API; its keys are the fields of sweeper.records."""

VERDICTS = {"PASS": "bold green", "FAIL": "bold red", "not yet": "cyan", "not known": "yellow"}
COLOURS = {"complete": "green", "pruned": "yellow", "diverged": "magenta", "stopped": "yellow", "failed": "red"}


def command_line(*words: str, options: Mapping[str, object]) -> str:
    """A line to type: the words, then the options that have a value."""
    given = [(name, value) for name, value in options.items() if value is not None]
    written = [(name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in given]
    return shlex.join([*words, *(word for pair in written for word in pair)])


def say(console: Console, text: str, style: str = "") -> None:
    """Print plain text, never wrapped: commands and paths in it can be copied, logs searched."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float | None) -> str:
    """Such as `48s`, `3m05s`, `2h10m`, `4d03h`; a dash when unknown."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def count(number: float) -> str:
    """Such as `740`, `12.3K`, `3B`."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= 0.9995 * size:  # three digits of it round up to the unit
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def value(item: Any) -> str:
    return f"{item:.4g}" if isinstance(item, float) else str(item)


def params(values: Record) -> str:
    """Searched values by the last part of their path, such as `matrix_lr=0.0213 num_layers=4`."""
    return " ".join(f"{path.rpartition('.')[2]}={value(item)}" for path, item in values.items())


def score(val_bpb: float | None, unit: Record | None = None) -> str:
    """Of four decimals, with its unit behind it where the name of the score does not say it; a dash when unknown.

    Args:
        unit: a ScoreUnit as JSON.
    """
    suffix = "" if unit is None else unit["suffix"]
    return "–" if val_bpb is None else f"{val_bpb:.4f}{suffix}"


def ranked_by(summary: Record) -> str:
    """Which score ranks in a study, such as `final val_bpb`."""
    return label(summary["judge"], summary["unit"]["metric"])


def best_line(summary: Record) -> str:
    """The best trial in one line, and how many were left out because they break a limit."""
    best, out = summary["best"], summary["infeasible"]
    limits = ", ".join(f"{name} ≤ {limit:,}" for name, limit in summary["constraints"].items())
    if best is None and out:
        return f"no trial is feasible: all {out} that finished their budget break {limits}"
    if best is None:
        return "no trial has finished its budget yet"
    without = f" ({out} complete trial{'s' if out != 1 else ''} over {limits} left out)" if out else ""
    named = f"trial {best['number']} {ranked_by(summary)} {score(best['val_bpb'], summary['unit'])}"
    return f"best: {named} {params(best['params'])}{without}"


def counts_line(summary: Record) -> str:
    """Such as `12/16 told: 7 complete, 5 pruned · 1 running · 0 failed · GPU-seconds 240 · ETA 1m20s`."""
    counts = summary["counts"]
    told = counts["complete"] + counts["pruned"]
    return (
        f"{told}/{summary['target']} told: {counts['complete']} complete, {counts['pruned']} pruned · "
        f"{counts['running']} running · {counts['failed']} failed · "
        f"GPU-seconds {summary['gpu_seconds']:.0f} · ETA {duration(summary['eta_seconds'])}"
    )


def trial_line(trial: Record, summary: Record) -> str:
    """A finished trial in one line, for logs."""
    counts = summary["counts"]
    told = counts["complete"] + counts["pruned"]
    judged, streamed = trial["score"], trial["streamed_val_bpb"]
    unit = summary["unit"]
    which = ranked_by(summary) if judged is not None else f"streamed {unit['metric']}"
    result = f"{which} {score(streamed if judged is None else judged, unit)}"
    result += f" but {trial['infeasible']}" if trial["infeasible"] else ""
    reason = f" ({trial['reason']})" if trial["reason"] and trial["state"] != "complete" else ""
    return (
        f"[{told}/{summary['target']}] trial {trial['number']} {trial['state']}{reason} at "
        f"{trial['progress']:.0%}, {result}, {params(trial['params'])}"
    )


def run_line(run: Record, unit: Record) -> str:
    """A run in a worker's hand in one line.

    Args:
        unit: the study's ScoreUnit as JSON.
    """
    return (
        f"{run['name']} at {run['progress']:.0%}, step {run['step']}, "
        f"train loss {value(run['train_loss'])}, {unit['metric']} {score(run['val_bpb'], unit)}"
    )


def study_view(summary: Record, finished: list[Record], url: str) -> RenderableType:
    """The live picture of a study: counts, what runs, what ended last."""
    counts = summary["counts"]
    told = counts["complete"] + counts["pruned"]
    bar = Table.grid(expand=True)  # a bar alone ends no line
    bar.add_row(ProgressBar(total=max(1, summary["target"]), completed=told))
    head = Group(
        bar,
        Text(counts_line(summary)),
        Text(best_line(summary), style="bold" if summary["best"] else "dim"),
        Text(f"dashboard: {url}  (Ctrl-C stops cleanly; the same command goes on)", style="dim"),
    )
    table = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    metric = summary["unit"]["metric"]
    judged = metric if summary["judge"] == "final" else f"{ranked_by(summary)} (running: streamed)"
    for name in ("run", "state", "progress", "train loss", judged, "values"):
        table.add_column(name, no_wrap=name != "values")
    for trial in finished[-8:]:
        shown = trial["score"] if trial["score"] is not None else trial["streamed_val_bpb"]
        over = bool(trial["infeasible"])
        state = Text("over limit", style="red") if over else Text(trial["state"], COLOURS.get(trial["state"], ""))
        table.add_row(
            f"trial {trial['number']}", state, f"{trial['progress']:.0%}", "", score(shown), params(trial["params"])
        )
    for run in summary["running"]:
        loss = "–" if run["train_loss"] is None else f"{run['train_loss']:.3f}"
        table.add_row(
            run["name"],
            Text("stopping" if run["stop_requested"] else "running", style="cyan"),
            f"{run['progress']:.0%}",
            loss,
            score(run["val_bpb"]),
            params(run["params"]),
        )
    title = f"{summary['name']} ({summary['profile']} profile, {summary['state']})"
    return Panel(Group(head, Text(), table), title=title, title_align="left")


def studies_table(summaries: list[Record]) -> Table:
    """One line a study."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("study", "state", "told", "complete", "pruned", "running", "failed", "best", "by", "seconds"):
        words = name == "by"
        table.add_column(
            name, no_wrap=not words, overflow="fold" if words else "ellipsis", min_width=8 if words else None
        )
    for summary in summaries:
        counts = summary["counts"]
        state = "complete" if summary["finished"] else summary["state"]
        told = f"{counts['complete'] + counts['pruned']}/{summary['target']}"
        best = summary["best"]
        numbers = [str(counts[name]) for name in ("complete", "pruned", "running", "failed")]
        seconds = f"{summary['gpu_seconds']:.0f}"
        judged = summary["judge"] + summary["unit"]["suffix"]
        table.add_row(summary["name"], state, told, *numbers, score(best and best["val_bpb"]), judged, seconds)
    return table


def promotion_line(promotion: Record, unit: Record) -> str:
    """A promotion in one line.

    Args:
        unit: the study's ScoreUnit as JSON.
    """
    speed = promotion["tokens_per_second"]
    rest = max(0, promotion["planned_tokens"] - promotion["tokens"])
    left = f", {duration(rest / speed)} left" if speed and promotion["state"] == "running" else ""
    whose = "" if promotion["trial"] is None else f" of trial {promotion['trial']}"
    kind = "confirmation run" if promotion["by"] == CONFIRM else "promotion"
    return (
        f"{kind} {promotion['number']}{whose}: {promotion['state']} at "
        f"{promotion['progress']:.1%}, {count(promotion['tokens'])} of {count(promotion['planned_tokens'])} tokens, "
        f"{unit['metric']} {score(promotion['val_bpb'], unit)}{left}"
        + (f", but {promotion['infeasible']}" if promotion["infeasible"] else "")
    )


def success_view(success: Record) -> RenderableType:
    """A promotion against its plan's criteria: the JSON of sweeper.success.Success."""
    table = Table(box=None, pad_edge=False, expand=False)
    for name in ("criterion", "wanted", "found", "verdict"):
        table.add_column(name, no_wrap=name == "verdict", overflow="fold")
    for row in success["rows"]:
        found = Text(row["found"])
        if row["forecast"]:
            found.append(f"\nforecast: {row['forecast']}", "dim")
        if row["reason"]:
            found.append(f"\n{row['verdict']}: {row['reason']}", "dim")
        table.add_row(row["name"], row["wanted"], found, Text(row["verdict"], VERDICTS[row["verdict"]]))
    overall = Text(success["verdict"], VERDICTS[success["verdict"]])
    overall.append(f": {success['reason']}" if success["reason"] else "", "default")
    return Panel(Group(overall, *([table] if success["rows"] else [])), title="success", title_align="left")


def plan_view(plan: PromotionPlan) -> RenderableType:
    """A promotion's plan: what it costs and what it runs."""
    table = Table(box=None, show_header=False, pad_edge=False)
    if plan.trial is not None:
        scored = f"{plan.unit.label(plan.judge)} {score(plan.trial_val_bpb)}{plan.unit.suffix}"
        table.add_row("trial", f"{plan.trial}: {scored} at {count(plan.trial_tokens)} tokens")
    if plan.hours is not None:
        table.add_row("hours", f"{plan.hours:g}")
    if plan.tokens:  # a command may not say
        times = f", {plan.tokens / plan.trial_tokens:.3g}× the trial's" if plan.trial_tokens else ""
        table.add_row("tokens", f"{count(plan.tokens)} ({plan.tokens:,}){times}")
    table.add_row("steps", f"{plan.steps:,}")
    known = plan.tokens and plan.tokens_per_second is not None
    speed = f" at {count(plan.tokens_per_second or 0)} tokens a second, as measured" if known else ""
    table.add_row("time", f"{duration(plan.seconds)}{speed}")
    for phase in (plan.config.get("plan") or {}).get("phases") or ():
        table.add_row(phase["name"], f"{count(phase['tokens'])} tokens, {_rate(phase)}")
    for path, item in plan.params.items():
        table.add_row(path, value(item))
    notes = [Text(f"• {note}") for note in plan.notes]
    moved = [] if plan.transfer is None else [Text(), *transfer_view(plan.transfer, plan.unit), Text()]
    whose = (
        f"{plan.name or plan.study}, by its own values" if plan.trial is None else f"{plan.study}, trial {plan.trial}"
    )
    return Panel(Group(table, *moved, *notes), title=f"promote {whose}", title_align="left")


def transfer_view(transfer: Transfer, unit: ScoreUnit) -> list[RenderableType]:
    """The candidates side by side, which is taken and why, and what would confirm it."""
    said: list[RenderableType] = []
    if transfer.candidates:
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for one in transfer.candidates:
            taken = one.by == transfer.chosen
            table.add_column(f"{WORDS[one.by]}{' ←' if taken else ''}", style="bold" if taken else "", overflow="fold")
        for name, cells in transfer.rows(unit.metric):
            table.add_row(name, *cells)
        said.append(table)
    said.append(Text(transfer.why, style="bold"))
    if transfer.start is not None:
        said.append(Text(f"the laws start from {transfer.start.words}", style="dim"))
    said += [Text(remark, style="dim") for remark in transfer.remarks]
    if transfer.because:
        said.append(Text(transfer.confirming))
        for run in transfer.confirm:
            said.append(
                Text(
                    f"  {count(run.tokens)} tokens ({run.steps:,} steps): matrix_lr {run.learning_rate:.4g}, decay "
                    f"{run.weight_decay:.3g}, batch {run.batch_tokens:,}"
                )
            )
    return said


def _rate(phase: Record) -> str:
    """The rate of a phase of a config in words."""
    factor = value(float(phase.get("lr", 1.0)))
    if phase.get("shape", "constant") == "constant":
        return f"rate {factor} constant"
    return f"rate {factor} to {value(float(phase.get('final_lr') or 0.0))} {phase['shape']}"
