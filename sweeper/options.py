"""The options that commands share: their values and their help."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class ProfileName(StrEnum):
    gpu = "gpu"
    cpu = "cpu"


class ExportFormat(StrEnum):
    csv = "csv"
    json = "json"
    parquet = "parquet"
    archive = "archive"


class Kind(StrEnum):
    trial = "trial"
    promotion = "promotion"


class By(StrEnum):
    copied = "copied"
    prior = "prior"
    fitted = "fitted"


Study = Annotated[str, typer.Option("--study", "-s", help="Name of the study.")]
StudyFile = Annotated[str, typer.Option("--study", "-s", help="Name in ./studies or packaged, or a .toml file.")]
BestTrial = Annotated[int | None, typer.Option("--trial", help="Left out: the best one.")]
FullTokens = Annotated[
    str | None, typer.Option("--tokens", help="Of the full run: 3B, 500M or 20x; left out: the study file's.")
]
FullHours = Annotated[float | None, typer.Option("--hours", help="Of the full run, instead of tokens.", min=0.001)]
HoursOf = Annotated[
    str | None,
    typer.Option("--gpu", help="Part of the name of the device whose hours; left out: that of most trials."),
]
Server = Annotated[str | None, typer.Option("--server", help="URL of the service; left out: the one of this home.")]
Port = Annotated[int | None, typer.Option(help="Port; left out: 8765, or a free one.", min=1, max=65535)]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in, unasked.")]
DeviceOption = Annotated[
    Device, typer.Option(help="auto: the NVIDIA GPUs where there are any, else the CPU; mps: a Mac's GPU.")
]
Gpus = Annotated[int, typer.Option(help="Devices that share the run, a process each under torchrun.", min=1)]
Profile = Annotated[ProfileName | None, typer.Option(help="Left out: gpu with an NVIDIA GPU, else cpu.")]
