"""The verbs of scaling laws: what a study holds, and what it foretells; as in cli, imports wait for the run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from sweeper.options import FullHours, HoursOf, Study
from sweeper.settings import Settings

app = typer.Typer()
console = Console()


class ParamsName(StrEnum):
    non_embedding = "non_embedding"
    all = "all"
    matrices = "matrices"


class RateName(StrEnum):
    as_given = "as_given"
    adamw = "adamw"


class LossName(StrEnum):
    judged = "judged"
    streamed = "streamed"


Params = Annotated[
    ParamsName | None,
    typer.Option("--params", help="What counts as a parameter; left out: what the runs say, else non_embedding."),
]
Rate = Annotated[RateName, typer.Option("--rate", help="Rates as given, or as the AdamW rate of equal update size.")]
Loss = Annotated[LossName, typer.Option("--loss", help="The judged score, or the last streamed one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]


@app.command()
def fit(
    study: Study,
    params: Params = None,
    rate: Rate = RateName.as_given,
    loss: Loss = LossName.judged,
    check: Annotated[
        bool, typer.Option("--check", help="Of a ladder: what laws of the smaller budgets are worth at the longest.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The scaling laws of a study, with intervals, and why what is missing is missing; no service is needed."""
    from sweeper.commands import fitting
    from sweeper.observations_switches import Asked

    asked = Asked(params=params.value if params else None, rate=rate.value, loss=loss.value)
    if check:
        fitting.check(Settings.from_environment(), study, asked, console)
        return
    fitting.fit(Settings.from_environment(), study, asked, console, as_json=as_json)


@app.command()
def plan(
    study: Study,
    tokens: Annotated[str | None, typer.Option(help="3B, 500M, or 20x the longest trial.")] = None,
    hours: FullHours = None,
    trial: Annotated[int | None, typer.Option(help="Whose values the copy has; left out: the best one.")] = None,
    gpu: HoursOf = None,
    as_json: AsJson = False,
) -> None:
    """What a full run could be given, by copying, by the literature's laws and by the study's; nothing is started."""
    from sweeper.commands import fitting

    order = fitting.Order(study=study, tokens=tokens, hours=hours, gpu=gpu, as_json=as_json, trial=trial)
    fitting.plan(Settings.from_environment(), order, console)
