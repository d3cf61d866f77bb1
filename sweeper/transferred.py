"""What the laws made of a full run: its candidates, the one that was taken, and what it rests on.

It is shown with a plan, stored with the promotion, and read again when the run's true score is known.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

By = Literal["copied", "prior", "fitted"]
"""The trial's own values, moved by the literature's laws, or by those fitted to the study."""

WORDS: dict[By, str] = {"copied": "copied", "prior": "prior law", "fitted": "fitted law"}


MORE_TRIALS = "runs to confirm it would be as long as the study's own: more trials tell as much"
CONFIRM = "confirm"
"""In a promotion's place for whose values it runs: it is a confirmation run of the study's laws, and no full run."""


class Stored(BaseModel):
    """Unknown keys are left aside: another version may have written more."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)


class Interval(Stored):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def words(self, form: str = ".4f") -> str:
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"


class Proposal(Stored):
    """What one of the laws would give the full run."""

    by: By
    learning_rate: float
    """Of the matrices."""
    rate_factor: float
    """Over the trial's: the rates of all groups move by it."""
    weight_decay: float
    tau: float | None
    """1 / (rate x decay x steps); None without decay."""
    batch_tokens: int
    beta2: float
    steps: int
    tokens: int
    best_rate: Interval
    """Where the law puts the best rate, before shading and caps."""
    shaded_octaves: float
    capped: bool
    predicted: Interval | None
    """Score that the study judges by, in its unit, with the price of a rate off its optimum."""
    unpredicted: str = ""
    """Why there is none."""
    notes: tuple[str, ...] = ()


class LawUsed(Stored):
    """A law behind a proposal or its prediction."""

    quantity: str
    """`learning rate`, `batch`, `tau` or `val_bpb`, which is the score whatever its unit."""
    source: Literal["prior", "fitted"]
    used: int
    """Cells, or runs, that it rests on."""
    exponents: dict[str, Interval]


class StartedFrom(Stored):
    """The short run, or the optimum of its cell, that the laws move."""

    n_params: float
    tokens: float
    batch_tokens: float
    learning_rate: float
    weight_decay: float | None
    rate_deviation: float
    """Octaves: how sure the rate is."""
    words: str


class Confirming(Stored):
    """A short run that would confirm the candidate."""

    tokens: int
    steps: int
    batch_tokens: int
    learning_rate: float
    weight_decay: float


class Confirms(Stored):
    """What a confirmation run is for."""

    by: By
    """The candidate that it confirms."""
    factor: float
    """Its rate over the candidate's at its own length."""
    full_tokens: int
    """Of the full run that waits for it."""
    because: tuple[str, ...]
    """Why the candidate should be confirmed."""

    @property
    def words(self) -> str:
        at = "the rate" if self.factor == 1 else f"{self.factor:g} times the rate"
        return f"at {at} of the {WORDS[self.by]}, for a full run of {self.full_tokens:,} tokens"


class Transfer(Stored):
    """The choice between candidates, with its reasons."""

    chosen: By
    why: str
    """In a sentence."""
    candidates: tuple[Proposal, ...] = ()
    """Empty where the study could not be fitted."""
    start: StartedFrom | None = None
    laws: tuple[LawUsed, ...] = ()
    """Those that the chosen candidate and its prediction rest on."""
    data_hash: str = ""
    """SHA-256 of the rows that were fitted; equal rows, equal laws."""
    runs: int = 0
    """How many rows those were."""
    confirms: By = "fitted"
    """Which candidate the runs below would confirm: the chosen one, or the law's that a copy stands in for."""
    because: tuple[str, ...] = ()
    """Why it should be confirmed first; empty: it need not be."""
    confirm: tuple[Confirming, ...] = ()
    confirm_cost: float = 0.0
    """Of those runs together, as a share of the full run's."""
    notes: tuple[str, ...] = ()

    @property
    def taken(self) -> Proposal | None:
        """The chosen candidate; None where the study could not be fitted."""
        return next((one for one in self.candidates if one.by == self.chosen), None)

    def rows(self, metric: str) -> list[tuple[str, list[str]]]:
        """The candidates side by side: a name, and a cell for each of them.

        Args:
            metric: of the study's ScoreUnit.
        """
        found = self.candidates
        return [
            ("matrix_lr", [f"{one.learning_rate:.4g}" for one in found]),
            ("all rates ×", [f"{one.rate_factor:.3g}" for one in found]),
            ("best matrix_lr there, 95 %", [one.best_rate.words(".3g") for one in found]),
            ("weight decay", [f"{one.weight_decay:.4g}" for one in found]),
            ("batch, tokens a step", [f"{one.batch_tokens:,}" for one in found]),
            ("beta2", [f"{one.beta2:.4g}" for one in found]),
            ("steps", [f"{one.steps:,}" for one in found]),
            (f"foretold {metric}, 95 %", [one.predicted.words() if one.predicted else "none" for one in found]),
        ]

    @property
    def confirming(self) -> str:
        """What should be confirmed first, why, and at what cost; empty for nothing."""
        if not self.because:
            return ""
        cost = (
            f"{len(self.confirm)} short runs for {self.confirm_cost:.0%} of the full run's cost, by `sweeper confirm`"
            if self.confirm
            else MORE_TRIALS
        )
        return f"To confirm the {WORDS[self.confirms]} first, as {'; '.join(self.because)}: {cost}"

    @property
    def remarks(self) -> list[str]:
        """What was assumed on the way, and why no score is foretold where none is."""
        unpredicted = {one.unpredicted for one in self.candidates if one.unpredicted}
        said = [f"No score is foretold: {reason}." for reason in sorted(unpredicted)]
        said += [f"{WORDS[one.by]}: {note}" for one in self.candidates for note in one.notes]
        return [*said, *self.notes]
