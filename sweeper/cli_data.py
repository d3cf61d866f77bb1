"""The verbs of `sweeper data`; as in cli, what a verb needs is imported when it runs."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sweeper.settings import Settings


class Format(enum.Enum):
    """What a row of input holds."""

    text = "text"
    chatml = "chatml"


app = typer.Typer(help="Prepare or fetch token shards.", no_args_is_help=True)
console = Console()


@app.command()
def prepare(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders: .txt, .jsonl, .jsonl.zst, .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder to create; a study's [data] names it.")],
    tokenizer: Annotated[str, typer.Option(help="sweeper1024, gpt2, or a SentencePiece .model file.")] = "sweeper1024",
    val: Annotated[list[Path] | None, typer.Option(help="Validation text; left out: drawn from the rest.")] = None,
    val_fraction: Annotated[float, typer.Option(help="Share of documents drawn for validation.")] = 0.01,
    column: Annotated[str, typer.Option(help="Field of JSON lines and Parquet that holds the text.")] = "text",
    form: Annotated[
        Format,
        typer.Option("--format", help="chatml: JSON lines of conversations, their markers two ids of their own."),
    ] = Format.text,
    reserve_tokens: Annotated[
        int, typer.Option(help="Tokens to keep out of train and val, as the split reserve.", min=0)
    ] = 0,
) -> None:
    """Turn text into token shards: streams, so memory stays flat. Killed, it goes on where it stopped."""
    from sweeper.commands import preparing

    preparing.prepare(
        paths,
        tokenizer,
        out,
        console,
        val_paths=val or [],
        val_fraction=val_fraction,
        column=column,
        form=form.value,
        reserve_tokens=reserve_tokens,
    )


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="A folder that sweeper data prepare wrote.")]) -> None:
    """Compare every byte of the shards with what was written; runs look at names and sizes only."""
    from sweeper.commands import preparing

    preparing.verify(folder, console)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="fineweb-sp1024: parameter-golf's shards and tokenizer.")],
    shards: Annotated[int, typer.Option(help="Training shards, of 100 million tokens (200 MB) each.", min=1)] = 10,
    out: Annotated[Path | None, typer.Option(help="Folder to fill; left out: in SWEEPER_HOME.")] = None,
) -> None:
    """Download published token shards and their tokenizer; needs the extra golf. Goes on where it stopped."""
    from sweeper.commands import preparing

    preparing.fetch(name, shards, out or Settings.from_environment().home / "data" / name, console)
