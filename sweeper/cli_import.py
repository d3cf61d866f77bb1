"""The verb `sweeper import`; as in cli, what it needs is imported when it runs."""

from __future__ import annotations

import enum
from typing import Annotated

import typer
from rich.console import Console

from sweeper.settings import Settings


class Format(enum.Enum):
    """What a source is."""

    auto = "auto"
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
        list[str], typer.Argument(help="Training logs, a folder of them, a glob; .csv, .jsonl; an Optuna storage URL.")
    ],
    study: Annotated[str, typer.Option("--study", "-s", help="Study to make, or an imported one to add to.")],
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="COLUMN=PATH, or a .toml file of them: lr=optim.matrix_lr, loss=score, tag=-"),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="wandb is a CSV that W&B exported.")] = Format.auto,
    optuna_study: Annotated[
        str | None, typer.Option(help="Study of the Optuna storage; left out: its only one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be stored, and store nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Make a study of runs made elsewhere; no service is needed. The same command again stores only what is new."""
    from sweeper.commands import importing
    from sweeper.importing.importer import Order
    from sweeper.importing.names import load_mapping

    order = Order(
        sources=sources,
        study=study,
        mapping=load_mapping(mapping or []),
        form=form.value,
        optuna_study=optuna_study,
        dry_run=dry_run,
    )
    raise typer.Exit(importing.bring_in(order, Settings.from_environment(), console, as_json=as_json))
