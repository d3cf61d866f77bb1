"""How a study draws trials and prunes them: tables of a study file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt

PrunedOn = Literal["raw", "cooled", "forecast"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TPESampler(Strict):
    """Optuna's tree-structured Parzen estimator."""

    type: Literal["tpe"]
    startup_trials: StrictInt = Field(default=10, ge=0, description="Random trials before the model speaks.")
    seed: StrictInt | None = Field(default=None, ge=0, description="Left out: drawn anew.")


class RandomSampler(Strict):
    """Independent draws."""

    type: Literal["random"]
    seed: StrictInt | None = Field(default=None, ge=0, description="Left out: drawn anew.")


class Ranking(Strict):
    """A pruner that ranks trials at rungs."""

    on: PrunedOn = Field(
        default="raw",
        description="What is ranked: `raw` the validation at each of budget.rungs, `cooled` the outcome of each of "
        "budget.ladder, which then are the rungs, `forecast` the end foretold at each of budget.rungs from the curves "
        "of finished trials; raw values as long as they are fewer than five.",
    )


class HalvingPruner(Ranking):
    """Asynchronous successive halving: only the best 1 / factor of those that reached a rung go on."""

    type: Literal["halving"]
    factor: StrictInt = Field(default=3, ge=2)


class MedianPruner(Ranking):
    """Optuna's: stops a trial whose best value so far is behind the median of completed trials."""

    type: Literal["median"]
    startup_trials: StrictInt = Field(default=5, ge=1, description="Complete trials before it acts.")


class PercentilePruner(Ranking):
    """Optuna's: as median, with another share."""

    type: Literal["percentile"]
    percentile: StrictFloat = Field(gt=0, lt=100, description="Share of trials that go on, in percent.")
    startup_trials: StrictInt = Field(default=5, ge=1, description="Complete trials before it acts.")


class NoPruner(Strict):
    """Every trial runs to its end, unless it diverges."""

    type: Literal["none"]


Sampler = Annotated[TPESampler | RandomSampler, Field(discriminator="type")]
Pruner = Annotated[HalvingPruner | MedianPruner | PercentilePruner | NoPruner, Field(discriminator="type")]
