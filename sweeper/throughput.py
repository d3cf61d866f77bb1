"""How fast devices train: one row for a device and a shape, as measured last, by `sweeper bench` or by a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from sweeper.shape import Shape, shape_of
from sweeper.storage import insert_or_update
from sweeper.tables import MessageRow, OutcomeRow, PointRow, RunRow, ThroughputRow
from trainer.config import ConfigError

Source = Literal["bench", "trial", "promotion"]

FEWEST_STEPS = 10
"""A run of fewer says little about its speed."""
KEY = ("device_name", "devices", *(field.name for field in fields(Shape)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """The speed of one device on one shape; see ThroughputRow."""

    device_name: str
    shape: Shape
    tokens_per_second: float
    seconds: float
    setup_seconds: float | None
    peak_memory_bytes: int
    source: Source
    measured_at: float
    devices: int = 1


def store(session: Session, found: Throughput) -> None:
    """Keep it in place of what was known of this device and shape."""
    values = asdict(found)
    insert_or_update(session, ThroughputRow, values.pop("shape") | values, KEY)


def store_run(session: Session, run: RunRow, now: float) -> None:
    """Keep the speed of a run that ended; nothing where it was too short to have one."""
    start = session.scalar(
        select(MessageRow.body)
        .where(MessageRow.run_id == run.id, MessageRow.kind == "start")
        .order_by(MessageRow.seq)
        .limit(1)
    )
    try:
        shape = shape_of(run.config)
    except ConfigError:  # of another version of sweeper, or of a command
        return
    tokens, seconds, steps = run.tokens, run.seconds, run.step - run.resumed_step
    if run.resumed_step:  # the clock went on from that of an earlier attempt, perhaps on another device
        first = session.execute(
            select(PointRow.tokens, PointRow.seconds, PointRow.step)
            .where(PointRow.run_id == run.id)
            .order_by(PointRow.seq)
            .limit(1)
        ).one_or_none()
        if first is None:
            return
        tokens, seconds, steps = tokens - first.tokens, seconds - first.seconds, run.step - first.step
    if start is None or not run.device_name or steps < FEWEST_STEPS or seconds <= 0:
        return
    found = Throughput(
        device_name=run.device_name[:255],
        devices=start.get("devices", 1),
        shape=shape,
        tokens_per_second=tokens / seconds,
        seconds=seconds,
        setup_seconds=start.get("setup_seconds"),
        peak_memory_bytes=run.peak_memory_bytes,
        source="promotion" if run.kind == "promotion" else "trial",
        measured_at=now,
    )
    store(session, found)


def known(session: Session, device_name: str, devices: int = 1) -> dict[Shape, Throughput]:
    """What is known of a device, by shape.

    Args:
        device_name: as the trainer says it or as `devices.describe` does: of a CPU the trainer adds the threads.
    """
    rows: Sequence[ThroughputRow] = session.scalars(
        select(ThroughputRow)
        .where(
            or_(
                ThroughputRow.device_name == device_name,
                ThroughputRow.device_name.startswith(f"{device_name}, ", autoescape=True),
            ),
            ThroughputRow.devices == devices,
        )
        .order_by(ThroughputRow.measured_at)
    ).all()
    own = [field.name for field in fields(Throughput) if field.name != "shape"]
    found = {}
    for row in rows:
        shape = Shape(**{field.name: getattr(row, field.name) for field in fields(Shape)})
        found[shape] = Throughput(shape=shape, **{name: getattr(row, name) for name in own})
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Speed of a full run, as far as anything is known."""

    tokens_per_second: float
    note: str
    """In words, whose speed that is."""


def of_full_run(
    session: Session, study: str, run: RunRow, outcome: OutcomeRow, config: Mapping[str, Any], device_name: str
) -> Expected:
    """What is known of the config's shape on the device; else the speed of the trial itself.

    Args:
        run, outcome: of the trial.
        device_name: that is to run it; empty takes the trial's own.
    """
    rest = "validation, compilation and checkpoints come on top."
    measured = known(session, device_name or run.device_name).get(shape_of(config))
    if measured is not None:
        by = "`sweeper bench`" if measured.source == "bench" else f"the last {measured.source} of this shape"
        note = f"The time is that of the speed that {by} had on {measured.device_name}; {rest}"
        return Expected(tokens_per_second=measured.tokens_per_second, note=note)
    note = f"The time is that of the trial's measured speed on {run.device_name or run.device or 'its device'}; {rest}"
    if device_name not in ("", run.device_name):
        note += f" Nothing is known of this shape on {device_name}: `sweeper bench --study {study}` measures it."
    elif shape_of(config) != shape_of(run.config):
        note += f" Its batch is another than the trial's: `sweeper bench --study {study}` measures such shapes."
    return Expected(tokens_per_second=outcome.tokens / outcome.seconds, note=note)
