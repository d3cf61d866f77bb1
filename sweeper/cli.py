"""The command line.  A command parses, calls and prints; what it needs is imported when it runs, so that
`sweeper worker` stays free of the database and `sweeper --help` is quick."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sweeper import cli_data, cli_fit, cli_import, cli_runs, display
from sweeper.cli_runs import until_told
from sweeper.client import Client
from sweeper.errors import SweeperError
from sweeper.options import (
    Device,
    DeviceOption,
    ExportFormat,
    Gpus,
    Host,
    Kind,
    Port,
    Profile,
    Server,
    Study,
    StudyFile,
)
from sweeper.settings import Settings

app = typer.Typer(
    help="Hyperparameter sweeps for language-model training under a wallclock cap.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_runs.app)
app.add_typer(cli_import.app)
app.add_typer(cli_fit.app)
console = Console()
errors = Console(stderr=True)


@app.command()
def launch(
    study: StudyFile,
    workers: Annotated[int | None, typer.Option(help="Left out: one per GPU, or one on the CPU.", min=1)] = None,
    trials: Annotated[int | None, typer.Option(help="Trials to reach, instead of the file's.", min=1)] = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    device: DeviceOption = Device.auto,
    profile: Profile = None,
) -> None:
    """Run a study here, from its file to its best trial: service, dashboard and workers.

    Ctrl-C stops cleanly and exits with 130; the same command goes on where it stopped.
    """
    from sweeper.commands import launching

    order = launching.Order(
        study=study,
        workers=workers,
        trials=trials,
        host=host,
        port=port,
        device=device.value,
        profile=profile.value if profile else None,
    )
    until_told(lambda: launching.launch(order, Settings.from_environment(), console))


@app.command()
def worker(
    server: Server = None,
    study: Annotated[str | None, typer.Option("--study", "-s", help="Serve this study only, and then leave.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N for one of several, or mps.")] = "auto",
    kind: Annotated[Kind | None, typer.Option(help="Only trials, or only promotions.")] = None,
    gpus: Gpus = 1,
    stop_grace: Annotated[float, typer.Option(help="Seconds a trainer has to obey a stop.", min=0.1)] = 30.0,
    allow_commands: Annotated[
        bool, typer.Option("--allow-commands", help="Run the command of a study that names one, as this user.")
    ] = False,
    identity: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Join a service as one worker on one device; SIGTERM or Ctrl-C hands back what it holds.

    Its trainer is `python -m trainer serve`, or the command in the variable SWEEPER_TRAINER.
    """
    from sweeper.commands import working

    settings = Settings.from_environment()
    working.work(
        server or _running_url(settings),
        settings,
        device=device,
        study=study,
        kind=kind.value if kind else None,
        identity=identity,
        allow_commands=allow_commands,
        stop_grace_seconds=stop_grace,
        gpus=gpus,
    )


@app.command()
def serve(host: Host = "127.0.0.1", port: Port = None) -> None:
    """Run the service alone: API and dashboard, no workers."""
    from sweeper.commands import serving

    serving.serve(Settings.from_environment(), host, port, console)


@app.command()
def status(
    study: Annotated[str | None, typer.Option("--study", "-s", help="One study in detail; else all.")] = None,
) -> None:
    """How the studies of this home stand, read from the database; no service is needed."""
    from sweeper.commands import reading

    reading.status(Settings.from_environment(), study, console)


@app.command()
def pause(study: Study, server: Server = None) -> None:
    """Hand out no further trials; running ones go on."""
    _tell(server, lambda client: client.set_study(study, "pause"))


@app.command()
def resume(study: Study, server: Server = None) -> None:
    """Go on with a paused or stopped study."""
    _tell(server, lambda client: client.set_study(study, "resume"))


@app.command()
def stop(
    study: Study,
    trial: Annotated[int | None, typer.Option(help="Stop this running trial only.")] = None,
    promotion: Annotated[int | None, typer.Option(help="Stop this promotion only.")] = None,
    server: Server = None,
) -> None:
    """Stop a study and what runs of it, or one trial, or one promotion."""
    if trial is not None:
        _tell(server, lambda client: client.stop_trial(study, trial))
    elif promotion is not None:
        _tell(server, lambda client: client.stop_promotion(study, promotion))
    else:
        _tell(server, lambda client: client.set_study(study, "stop"))


@app.command()
def enqueue(
    study: Study,
    values: Annotated[list[str], typer.Argument(help="One PATH=VALUE for each axis: optim.matrix_lr=0.02 …")],
    server: Server = None,
) -> None:
    """Try these values next."""
    params = dict(_parse_assignment(text) for text in values)
    _tell(server, lambda client: client.enqueue(study, params))


@app.command()
def note(
    study: Study,
    text: Annotated[str | None, typer.Argument(help="The remark; left out: print those that there are.")] = None,
    trial: Annotated[int | None, typer.Option(help="Of this trial.")] = None,
) -> None:
    """Keep a remark on a study or a trial, which its page shows; no service is needed."""
    from sweeper.commands import noting

    noting.note(Settings.from_environment(), study, trial, text, console)


@app.command()
def export(
    study: Study,
    out: Annotated[Path, typer.Option(help="Folder for trials.EXT, curves.EXT and outcomes.EXT, or the archive.")],
    form: Annotated[
        ExportFormat, typer.Option("--format", help="archive: one file that `sweeper import` takes in whole.")
    ] = ExportFormat.csv,
) -> None:
    """Write the trials, all curves and all outcomes of a study to files; no service is needed."""
    from sweeper.commands import reading

    for path in reading.export_study(Settings.from_environment(), study, form.value, out):
        display.say(console, f"wrote {path} ({path.stat().st_size:,} bytes)")


@app.command()
def doctor() -> None:
    """Look for what is wrong on this machine, and say how to mend it; exit 1 when something must be."""
    from sweeper.doctor import report

    raise typer.Exit(report(Settings.from_environment(), console))


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files."""
    from sweeper import study

    typer.echo(json.dumps(study.json_schema(), indent=2))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(importlib.metadata.version("sweeper"))


def _parse_assignment(text: str) -> tuple[str, float | int | str | bool]:
    """`optim.matrix_lr=0.02` as path and JSON value; what is no JSON number or boolean is text."""
    path, equals, written = text.partition("=")
    if not equals or not path:
        raise SweeperError(f"expected PATH=VALUE such as optim.matrix_lr=0.02, got {text!r}")
    try:
        value = json.loads(written)
    except ValueError:
        return path, written
    return path, value if isinstance(value, (float, int, str, bool)) else written


def _running_url(settings: Settings) -> str:
    from sweeper import hosting

    url = hosting.running_url(settings)
    if url is None:
        raise SweeperError(
            f"no service runs for {settings.home}; start one with `sweeper serve` or `sweeper launch`, "
            f"give --server URL, or set SWEEPER_HOME"
        )
    return url


def _tell(server: str | None, verb: Any) -> None:
    with Client(server or _running_url(Settings.from_environment())) as client:
        display.say(console, verb(client))


def main() -> None:
    """Entry point: a SweeperError is a message and exit status 2, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("sweeper").setLevel(logging.INFO)
    try:
        app()
    except SweeperError as error:
        display.say(errors, f"error: {error}", "red")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
