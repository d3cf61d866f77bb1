"""What the scores and figures of imported runs count: one unit in a study, and what is hardly meant so.  Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from sweeper.importing.names import strip
from sweeper.importing.runs import BITS, NATS, Run, Skipped

FEWEST_BATCH_TOKENS = 1000
FEWEST_PARAMETERS = 10_000
LARGEST_LOSS = 30.0
"""Bits per byte or nats per token: a model that knows nothing of 200,000 tokens has 12 nats."""


def is_loss(column: str, factor: float) -> bool:
    """Whether a score that stands in this column, times the factor, is a loss in nats per token: by its name."""
    return factor == 1 and "loss" in strip(column).lower()


def bits_per_byte(nats: float, bytes_per_token: float) -> float:
    """Of a loss in nats per token."""
    return nats / (math.log(2) * bytes_per_token)


def of_one_unit(runs: Sequence[Run], known: str | None) -> tuple[list[Run], list[Skipped], list[str]]:
    """Runs whose scores have the unit of the study, the others, and what to say of it.

    Args:
        known: unit of the study's runs so far; None takes bits per byte where any run has them.
    """
    unit = known or (BITS if not runs or any(run.score_unit == BITS for run in runs) else NATS)
    detail = f"the study's scores are in {unit}; --bytes-per-token makes bits per byte of nats per token"
    kept, skipped = [], []
    for run in runs:
        if run.score_unit == unit or not run.judged:
            kept.append(run)
            continue
        skipped.append(Skipped(source=run.source, reason=f"a score in {run.score_unit}", detail=detail))
    if unit == BITS or not kept:
        return kept, skipped, []
    return kept, skipped, [f"scores are losses in {NATS}; --bytes-per-token 4.5, say, would make them bits per byte"]


def implausible(runs: Sequence[Run], used: Mapping[str, str]) -> list[str]:
    """Figures that are hardly in the unit that they are taken for, with what to do: a line for each kind.

    Args:
        used: column by what it is used for.
    """

    def told(target: str, found: Iterable[float | None], odd: Callable[[float], bool], unit: str, do: str) -> list[str]:
        values = [value for value in found if value is not None and odd(value)]
        if not values:
            return []
        column = used.get(target, target)
        said = f"{column} is read as {target}: {values[0]:.6g} {unit} in {len(values):,} runs is hardly meant"
        return [f"{said}; {do.format(column)}"]

    batches = (_number(run.values.get("data.batch_tokens")) for run in runs)
    losses = [run.judged.get("final") for run in runs]
    score = "score" if "score" in used or "val_loss" not in used else "val_loss"
    return [
        *told(
            "data.batch_tokens", batches, lambda value: value < FEWEST_BATCH_TOKENS, "tokens a step",
            "if it counts sequences, multiply in the mapping: --map '{}=data.batch_tokens*SEQ_LEN'",
        ),
        *told(
            "parameters", (run.parameters for run in runs), lambda value: value < FEWEST_PARAMETERS, "parameters",
            "if it counts millions, multiply in the mapping: --map '{}=parameters*1e6'",
        ),
        *told(
            score, losses, lambda value: value > LARGEST_LOSS, runs[0].score_unit if runs else BITS,
            f"is it a perplexity, or in percent? Convert the column, or scale it: --map '{{}}={score}/100'",
        ),
    ]  # fmt: skip


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
