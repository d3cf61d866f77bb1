"""The verbs of full runs; as in cli, what a verb needs is imported when it runs."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any, Never

import typer
from rich.console import Console

from sweeper.options import (
    BestTrial,
    By,
    Device,
    DeviceOption,
    FullHours,
    FullTokens,
    Gpus,
    Host,
    HoursOf,
    Port,
    Profile,
    Study,
    StudyFile,
)
from sweeper.settings import Settings

app = typer.Typer()
console = Console()


def until_told(work: Any) -> None:
    """Run a command that SIGTERM must end as cleanly as Ctrl-C does."""

    def interrupt(_signal: int, _frame: object) -> Never:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    raise typer.Exit(work())


@app.command()
def promote(
    study: Study,
    trial: BestTrial = None,
    tokens: FullTokens = None,
    hours: FullHours = None,
    gpu: HoursOf = None,
    by: Annotated[
        By | None, typer.Option(help="Whose values; left out: the fitted law's where it needs no confirming.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    host: Host = "127.0.0.1",
    port: Port = None,
    device: DeviceOption = Device.auto,
    gpus: Gpus = 1,
) -> None:
    """Run a trial's values as a full run, here, as they are or moved by a law; the same command resumes one that was
    broken off."""
    from sweeper.commands import promoting

    order = promoting.Order(
        study=study,
        trial=trial,
        tokens=tokens,
        hours=hours,
        gpu=gpu,
        by=by.value if by else None,
        yes=yes,
        host=host,
        port=port,
        device=device.value,
        gpus=gpus,
    )
    until_told(lambda: promoting.promote(order, Settings.from_environment(), console))


@app.command()
def confirm(
    study: Study,
    trial: BestTrial = None,
    tokens: FullTokens = None,
    hours: FullHours = None,
    gpu: HoursOf = None,
    by: Annotated[
        By | None, typer.Option(help="The law to confirm; left out: the study's own, else the literature's.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start them; do not ask.")] = False,
    workers: Annotated[int | None, typer.Option(help="Left out: one per GPU, or one on the CPU.", min=1)] = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    device: DeviceOption = Device.auto,
    gpus: Gpus = 1,
) -> None:
    """Show the short runs that a full run's law calls for, and run them here; its laws are then fitted with them.

    The same command resumes those that were broken off."""
    from sweeper.commands import confirming

    order = confirming.Order(
        study=study,
        trial=trial,
        tokens=tokens,
        hours=hours,
        gpu=gpu,
        by=by.value if by else None,
        yes=yes,
        workers=workers,
        host=host,
        port=port,
        device=device.value,
        gpus=gpus,
    )
    until_told(lambda: confirming.confirm(order, Settings.from_environment(), console))


@app.command()
def run(
    plan: Annotated[str, typer.Argument(help="Name in ./studies or packaged, or a .toml file.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    host: Host = "127.0.0.1",
    port: Port = None,
    device: DeviceOption = Device.auto,
    gpus: Gpus = 1,
    profile: Profile = None,
) -> None:
    """Run a plan with its own values, here, without a trial; the same command resumes one that was broken off."""
    from sweeper.commands import promoting

    order = promoting.by_hand(
        plan, profile.value if profile else None, yes=yes, host=host, port=port, device=device.value, gpus=gpus
    )
    until_told(lambda: promoting.promote(order, Settings.from_environment(), console))


@app.command()
def sample(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the folder of a run's.")],
    prompt: Annotated[str, typer.Argument(help="What the text begins with.")],
    tokens: Annotated[int, typer.Option(help="Most tokens to write.", min=1)] = 128,
    tokenizer: Annotated[str | None, typer.Option(help="Left out: that of the data the run was trained on.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask as a ChatML user; the answer ends with its turn.")] = False,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends it, left out; may be given again.")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0)] = 0.8,
    top_k: Annotated[int, typer.Option(help="0 for all.", min=0)] = 50,
    top_p: Annotated[float, typer.Option(help="1 for all.", min=1e-6, max=1)] = 0.95,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N for one of several, or mps.")] = "auto",
) -> None:
    """Let a checkpoint go on with a prompt."""
    from sweeper.commands import sampling

    order = sampling.Order(
        checkpoint=checkpoint,
        prompt=prompt,
        tokens=tokens,
        tokenizer=tokenizer,
        chat=chat,
        stops=stop or [],
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        device=device,
    )
    raise typer.Exit(sampling.sample(order, console))


@app.command()
def bench(
    study: StudyFile,
    seconds: Annotated[
        float | None, typer.Option(help="Of training a shape; left out: 5, on a CPU 3.", min=0.1)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N for one of several, or mps.")] = "auto",
    profile: Profile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON too.")] = False,
) -> None:
    """Measure how fast this machine trains each depth and batch of a study; forecasts and plans use it."""
    from sweeper.commands import benching

    order = benching.Order(
        study=study, seconds=seconds, device=device, profile=profile.value if profile else None, as_json=as_json
    )
    until_told(lambda: benching.bench(order, Settings.from_environment(), console))
