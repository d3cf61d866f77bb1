"""What a plan of a full run tells its reader beside the numbers: whose values, how long, what goes before it."""

from __future__ import annotations

from sweeper.plan_file import Plan
from sweeper.tables import OutcomeRow, PromotionRow, RunRow
from sweeper.transferred import CONFIRM, WORDS, Proposal


def warning(run: RunRow) -> list[str]:
    """That the trial breaks a limit, where it does."""
    if not run.infeasible:
        return []
    return [f"Trial {run.number} breaks a limit of the study, and the full run of it likely will: {run.infeasible}."]


def whose(number: int, taken: Proposal | None) -> str:
    """Whose values are run; None for the trial's own."""
    if taken is None:
        return (
            f"The values of trial {number} are copied as they are. No law has moved them to the longer run: rates "
            "that win short runs are often not the best for long ones."
        )
    return (
        f"The values of trial {number} are moved by the {WORDS[taken.by]}: all rates times {taken.rate_factor:.3g}, "
        f"decay {taken.weight_decay:.3g}, batch {taken.batch_tokens:,}, beta2 {taken.beta2:.4g}."
    )


def length(tokens: int, outcome: OutcomeRow, phases: Plan | None) -> list[str]:
    """How much longer than the trial it is, and what the schedule makes of that."""
    longer = tokens / outcome.tokens
    schedule = (
        f"its rates are those of the {len(phases.phases)} phases of {phases.name}, as shares of the values' own."
        if phases
        else "the schedule stretches with it, as its parts are shares of the budget."
    )
    said = f"The run is {longer:,.1f} times as long as the trial ({tokens:,} tokens against {outcome.tokens:,}); "
    return [said + schedule, *(["It is shorter than the trial was."] if longer < 1 else [])]


def goes_first(name: str, waiting: PromotionRow) -> str:
    """That another run of the study waits already."""
    kind = "Confirmation run" if waiting.candidate == CONFIRM else "Promotion"
    return (
        f"{kind} {waiting.number} of {waiting.plan['tokens']:,} tokens is still waiting, and runs before this one. "
        f"If it is not wanted: sweeper stop --study {name} --promotion {waiting.number}"
    )
