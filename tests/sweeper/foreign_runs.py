"""Logs and tables of runs made elsewhere, for tests that import them; and what an import left in the database."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import select

from sweeper.importing import importer
from sweeper.importing.importer import Order, Report
from sweeper.importing.mapping import ParametersCount, load_mapping
from sweeper.service import Service, find_study, spec_of
from sweeper.tables import Base, ExportRow, MessageRow, OutcomeRow, PointRow, RunRow, ScoreRow

TABLES: tuple[type[Base], ...] = (RunRow, PointRow, OutcomeRow, ScoreRow, ExportRow, MessageRow)
Import = Callable[..., Report]


def importer_into(service: Service) -> Import:
    """Imports sources into the study `other`."""

    def bring_in(
        *sources: Any,
        mapping: tuple[str, ...] = (),
        constants: tuple[str, ...] = (),
        parameters: ParametersCount | None = None,
        bytes_per_token: float | None = None,
        **wishes: Any,
    ) -> Report:
        read_by = load_mapping(mapping, constants, parameters=parameters, bytes_per_token=bytes_per_token)
        order = Order(sources=[str(s) for s in sources], study="other", mapping=read_by, **wishes)
        return importer.run(order, service, lambda verb, done, total: None)

    return bring_in


def log(
    rate: float = 0.04, bpb: float = 1.25, batch: int = 524_288, *, seed: int = 1337, upto: float = 1.0, loss: Any = 2.0
) -> str:
    """A log in the baseline's dialect behind its own source; `upto` below 1 breaks it off."""
    lines = [
        "matrix_lr = float(os.environ.get('MATRIX_LR', 0.99))",
        '    log0(f"seed:{args.seed}")',
        "=" * 100,
        "model_params:17059912",
        "world_size:1 grad_accum_steps:8",
        "attention_mode:gqa num_heads:8 num_kv_heads:4",
        f"tie_embeddings:True embed_lr:0.05 head_lr:0.0 matrix_lr:{rate} scalar_lr:0.04",
        f"train_batch_tokens:{batch} train_seq_len:1024 iterations:20000 warmup_steps:20 max_wallclock_seconds:600.000",
        f"seed:{seed}",
        "step:0/20000 val_loss:6.9357 val_bpb:4.1077 train_time:0ms step_avg:0.01ms",
        f"step:500/20000 train_loss:{loss} train_time:300000ms step_avg:600.00ms",
    ]
    if upto == 1.0:
        lines += [
            f"step:1000/20000 val_loss:{1.7 * bpb:.4f} val_bpb:{bpb:.4f} train_time:600050ms step_avg:600.05ms",
            "stopping_early: wallclock_cap train_time:600050ms step:1000/20000",
            "Serialized model int8+zlib: 15800000 bytes (payload:17178912 raw_torch:17224025 payload_ratio:3.91x)",
            "Total submission size int8+zlib: 15850000 bytes",
            f"final_int8_zlib_roundtrip_exact val_loss:{1.7 * bpb:.8f} val_bpb:{bpb + 0.007:.8f}",
        ]
    return "\n".join(lines) + "\n"


def write_logs(folder: Path, texts: list[str], start: int = 0) -> Path:
    for number, said in enumerate(texts, start=start):
        (folder / f"run-{number}").mkdir(parents=True)
        (folder / f"run-{number}" / "train.log").write_text(said)
    return folder


def some_logs(count: int = 14) -> list[str]:
    return [log(0.01 * 1.2**n, 1.25 + 0.001 * n, (131_072, 524_288)[n % 2]) for n in range(count)]


def write_csv(path: Path, header: list[str], *rows: list[Any]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def contents(service: Service) -> dict[str, list[Any]]:
    """Every row of every table of runs."""
    found = {}
    with service.read() as session:
        for table in TABLES:
            rows = session.execute(select(*table.__table__.columns).order_by(*table.__table__.primary_key))
            found[table.__tablename__] = [tuple(row) for row in rows]
    return found


def trials(service: Service) -> list[RunRow]:
    with service.read() as session:
        return list(session.scalars(select(RunRow).order_by(RunRow.number)))


def optuna_trials(service: Service, name: str = "other") -> list[optuna.trial.FrozenTrial]:
    with service.read() as session:
        spec = spec_of(find_study(session, name))
    return service.search(spec).trials()


def reasons(report: Report) -> dict[str, int]:
    return {reason: len(items) for reason, items in report.reasons.items()}
