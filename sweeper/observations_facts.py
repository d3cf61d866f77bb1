"""What is known of a run before it is a row: its values' place in a law, and its scores by budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.transferred import Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetScore:
    """What a run had reached, cooled, at one budget."""

    tokens: int
    step: int
    seconds: float
    val_bpb: float
    stderr: float | None
    budget: float | None = None
    """Of a branch that was cooled on the way: the smaller budget; None for the run's whole one."""

    @property
    def full(self) -> bool:
        """Whether this is the run's whole budget."""
        return self.budget is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What of a run's values decides its place in a law; None where they do not say."""

    counts: Mapping[str, float] | None
    """Parameters by ParamsCount, of the conventions in which they are known."""
    learning_rate: float | None
    weight_decay: float | None
    batch_tokens: float | None
    depth: float | None
    width: float | None
    optimizer: str
    """Of the matrices; empty where it is not stated."""
    mean_rate: float
    """Mean of rate / peak over the schedule."""
    seed: int
    seq_len: int
    repeats: str
    """Equal for runs with equal values but for their seeds."""
    convention_known: bool = True
    """False where the run said a number of parameters and not what it counts: `counts` then has it in every place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One trial, confirmation run or promotion at its newest attempt."""

    number: int
    """Of a confirmation run below 0."""
    trial: int | None
    """Of a promotion: the trial whose values it took."""
    state: str
    reason: str
    progress: float
    recipe: Recipe
    tokens: int
    step: int
    seconds: float
    device_name: str
    score: float | None
    score_stderr: float | None
    streamed: float | None
    outcomes: tuple[BudgetScore, ...]
    """By tokens, ascending."""
    transfer: Transfer | None = None
    """Of a promotion: the candidate that was taken, and what it was foretold."""
    planned: int | None = None
    """Of a confirmation run: the tokens that it is to train on; None for the budget of the study."""
