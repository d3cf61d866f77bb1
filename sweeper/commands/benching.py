"""`sweeper bench`: measure the shapes of a study on this machine, print them, keep them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from sweeper import bench as benching
from sweeper import devices, display, storage, study, throughput
from sweeper.bench import Unmeasured
from sweeper.errors import SweeperError
from sweeper.settings import Settings
from sweeper.shape import Shape
from sweeper.study import Profile
from sweeper.throughput import Throughput

GPU_SECONDS, CPU_SECONDS = 5.0, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asked for."""

    study: str
    seconds: float | None
    device: str
    profile: Profile | None
    as_json: bool


def bench(order: Order, settings: Settings, console: Console) -> int:
    """Measure; the exit status: 0 when every shape was measured, 1 when one was not.

    Raises:
        SweeperError: a wrong study file or device, data that cannot be had, or no trainer.
    """
    device = devices.resolve(order.device)
    on_cpu = not device.startswith("cuda")  # a Mac's GPU is nearer to a CPU than to what the gpu profile is for
    spec = study.load(order.study, order.profile or ("cpu" if on_cpu else "gpu"))
    seconds = order.seconds or (CPU_SECONDS if on_cpu else GPU_SECONDS)
    planned = benching.plan(spec, seconds, settings.home, device)
    display.say(console, f"{len(planned)} shapes of {spec.name}, {seconds:g} s of training each, on {device}")
    engine = storage.open_engine(settings.storage)
    found: list[Throughput | Unmeasured] = []
    try:
        storage.migrate(engine)
        for result in benching.measure(planned, device):
            found.append(result)
            if isinstance(result, Throughput):
                with storage.write(engine) as session:
                    throughput.store(session, result)
            display.say(console, f"[{len(found)}/{len(planned)}] {_line(result, list(planned))}")
    except OSError as error:
        raise SweeperError(f"cannot start the trainer: {error}; see what `sweeper doctor` says") from error
    finally:
        engine.dispose()
    console.print(_table(found))
    if order.as_json:
        print_json(found, console)
    return 1 if any(isinstance(result, Unmeasured) for result in found) else 0


def print_json(found: list[Throughput | Unmeasured], console: Console) -> None:
    """One line: an array of the figures by shape."""
    rows: list[dict[str, Any]] = [values.pop("shape") | values for values in map(asdict, found)]
    display.say(console, json.dumps(rows, allow_nan=False))


def _line(result: Throughput | Unmeasured, shapes: list[Shape]) -> str:
    words = result.shape.words(shapes)
    if isinstance(result, Unmeasured):
        return f"{words}: not measured: {result.problem}"
    return f"{words}: {display.count(result.tokens_per_second)} tokens/s"


def _table(found: list[Throughput | Unmeasured]) -> Table:
    table = Table(box=None)
    for name in ("layers", "width", "batch", "tokens/s", "set-up", "memory"):
        table.add_column(name, justify="right")
    for result in found:
        shape = result.shape
        key = (str(shape.num_layers), str(shape.model_dim), f"{shape.batch_tokens:,}")
        if isinstance(result, Unmeasured):
            table.add_row(*key, "not measured", "", "", style="red")
            continue
        memory = f"{result.peak_memory_bytes / 2**30:.2f} GiB" if result.peak_memory_bytes else "–"
        table.add_row(*key, f"{result.tokens_per_second:,.0f}", f"{result.setup_seconds:.1f} s", memory)
    return table
