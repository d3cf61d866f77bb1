"""The verbs `sweeper import` and `sweeper example`; as in cli, what it needs is imported when it runs."""

from __future__ import annotations

import enum
from typing import Annotated

import typer
from rich.console import Console

from sweeper.settings import Settings


class Parameters(enum.Enum):
    """What a number of parameters counts."""

    all = "all"
    non_embedding = "non-embedding"
    matrices = "matrices"
    unknown = "unknown"


class Format(enum.Enum):
    """What a source is."""

    auto = "auto"
    archive = "archive"
    csv = "csv"
    jsonl = "jsonl"
    logs = "logs"
    optuna = "optuna"
    wandb = "wandb"


app = typer.Typer()
console = Console()


@app.command("import")
def bring_in(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Training logs, a folder of them, a glob; .csv, .jsonl; an Optuna storage URL or .db; "
            "or the .sweeper.jsonl.zst of `sweeper export --format archive`."
        ),
    ],
    study: Annotated[str, typer.Option("--study", "-s", help="Study to make, or an imported one to add to.")],
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="COLUMN=PATH, once a column, or a .toml file of them: lr=optim.matrix_lr, bpb=score, tag=-; by units: "
            "batch_size=data.batch_tokens*1024 of sequences, C=flops of the whole training, loss=val_loss of nats.",
        ),
    ] = None,
    constants: Annotated[
        list[str] | None,
        typer.Option("--set", help="PATH=VALUE of what all runs share and no column or log says: parameters=124e6."),
    ] = None,
    parameters: Annotated[
        Parameters | None,
        typer.Option(help="What the numbers of parameters count; left out: unknown, and of logs all weights."),
    ] = None,
    bytes_per_token: Annotated[
        float | None,
        typer.Option(help="Of the validation text: bits per byte of runs that say nats per token alone."),
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="Left out: by the source's name; wandb is a CSV that W&B exported.")
    ] = Format.auto,
    optuna_study: Annotated[
        str | None, typer.Option(help="Study of the Optuna storage; left out: its only one.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show how columns are read and what would be stored; store nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Make a study of runs made elsewhere; no service is needed. The same command again stores only what is new."""
    from sweeper.commands import importing
    from sweeper.importing.importer import Order
    from sweeper.importing.mapping import COUNTS, load_mapping

    order = Order(
        sources=sources,
        study=study,
        mapping=load_mapping(
            mapping or [],
            constants or [],
            parameters=COUNTS[parameters.value] if parameters else None,
            bytes_per_token=bytes_per_token,
        ),
        form=form.value,
        optuna_study=optuna_study,
        dry_run=dry_run,
    )
    raise typer.Exit(importing.bring_in(order, Settings.from_environment(), console, as_json=as_json))


@app.command()
def example(
    name: Annotated[str | None, typer.Argument(help="Left out: list them.")] = None,
) -> None:
    """Studies of real runs that ship with sweeper: list them, or take one into this home to look at; offline."""
    from sweeper.commands import importing

    settings = Settings.from_environment()
    if name is None:
        importing.list_examples(console)
    else:
        importing.take_example(name, settings, console)
