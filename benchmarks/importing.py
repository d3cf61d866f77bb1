"""How long `sweeper import` takes for thousands of training logs, and whether a second import stores anything twice.

    python -m benchmarks.importing [--logs 3000] [--points 60] [--source-lines 1126]

Writes logs in the parameter-golf baseline's dialect, each behind as many lines of source as the baseline has, imports
them twice by the command line into a new SQLite database, and compares what is stored. Prints a table and one JSON
line; exits 1 when the second import changed anything, or a run is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

TABLES = (
    *("sweeper_studies", "sweeper_runs", "sweeper_points", "sweeper_outcomes", "sweeper_scores", "sweeper_exports"),
    *("sweeper_messages", "sweeper_events", "trials", "trial_params", "trial_values"),
)
CAP_MS = 600_000
STEPS = 13_780
UNFINISHED_EVERY = 100
"""One log in so many breaks off."""


def source_lines(count: int) -> list[str]:
    """Lines as a training script has them, log templates among them."""
    lines = [f'    value_{n} = os.environ.get("NAME_{n}", {n})  # a comment of usual length here' for n in range(count)]
    lines[count // 2 : count // 2 + 1] = [
        '        log0(f"step:{step}/{args.iterations} val_loss:{val_loss:.4f} val_bpb:{val_bpb:.4f} ")',
        "matrix_lr = float(os.environ.get('MATRIX_LR', 0.04))",
    ]
    return lines


def log_text(draw: random.Random, points: int, source: str, *, finished: bool) -> str:
    """One log: source, hyperparameters, a curve of `points` samples, and the final scores."""
    rate, batch = 10 ** draw.uniform(-2, -1), draw.choice([131_072, 262_144, 524_288])
    embed_rate = 10 ** draw.uniform(-2, -0.5)
    best = 1.21 + 0.02 * math.log10(rate / 0.04) ** 2 + 0.01 * math.log10(embed_rate / 0.05) ** 2 + draw.gauss(0, 5e-4)
    lines = [
        source,
        "=" * 100,
        "Running Python 3.12 PyTorch 2.9",
        "=" * 100,
        "val_loader:shards pattern=./data/fineweb_val_*.bin tokens:62021632",
        "model_params:17059912",
        "world_size:8 grad_accum_steps:1",
        "attention_mode:gqa num_heads:8 num_kv_heads:4",
        f"tie_embeddings:True embed_lr:{embed_rate:.6g} head_lr:0.0 matrix_lr:{rate:.6g} scalar_lr:0.04",
        f"train_batch_tokens:{batch} train_seq_len:1024 iterations:20000 warmup_steps:20 max_wallclock_seconds:600.000",
        "seed:1337",
    ]
    for point in range(points + 1):
        share = point / points
        step, at = round(share * STEPS), round(share * CAP_MS)
        loss = best + (4.1 - best) * math.exp(-8 * share)
        validated = point % 3 == 0 or point == points
        said = f"val_loss:{1.69 * loss:.4f} val_bpb:{loss:.4f}" if validated else f"train_loss:{1.69 * loss:.4f}"
        lines.append(f"step:{step}/20000 {said} train_time:{at}ms step_avg:43.54ms")
        if not finished and share > 0.5:
            return "\n".join(lines) + "\n"
    return "\n".join([*lines, *endings(best)]) + "\n"


def endings(best: float) -> list[str]:
    """What the baseline prints after its last step."""
    return [
        f"stopping_early: wallclock_cap train_time:{CAP_MS}ms step:{STEPS}/20000",
        "peak memory allocated: 10246 MiB reserved: 10310 MiB",
        "Serialized model int8+zlib: 15800000 bytes (payload:17178912 raw_torch:17224025 payload_ratio:3.91x)",
        "Total submission size int8+zlib: 15850000 bytes",
        f"final_int8_zlib_roundtrip val_loss:{1.69 * best + 0.01:.4f} val_bpb:{best + 0.007:.4f} eval_time:1401ms",
        f"final_int8_zlib_roundtrip_exact val_loss:{1.69 * best + 0.01:.8f} val_bpb:{best + 0.007:.8f}",
    ]


def write_logs(folder: Path, count: int, points: int, lines: int) -> int:
    """Write the logs; returns their bytes."""
    draw, source, total = random.Random(1337), "\n".join(source_lines(lines)), 0
    for number in range(count):
        path = folder / f"run-{number:05d}" / "train.log"
        path.parent.mkdir()
        finished = number % UNFINISHED_EVERY != UNFINISHED_EVERY - 1
        total += path.write_text(log_text(draw, points, source, finished=finished))
    return total


def bring_in(logs: Path, home: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of the command, start of Python included, and its report."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "sweeper.cli", "import", str(logs), "--study", "imported", "--json"],
        env={**os.environ, "SWEEPER_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the import failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began, json.loads(done.stdout)


def contents(home: Path) -> dict[str, tuple[int, str]]:
    """Rows of each table, and a digest of them all."""
    found = {}
    with closing(sqlite3.connect(home / "sweeper.db")) as database:
        for table in TABLES:
            rows = database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            found[table] = (len(rows), hashlib.sha256(repr(rows).encode()).hexdigest())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=3000)
    parser.add_argument("--points", type=int, default=60)
    parser.add_argument("--source-lines", type=int, default=1126)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        logs, home = Path(made) / "logs", Path(made) / "home"
        logs.mkdir()
        size = write_logs(logs, asked.logs, asked.points, asked.source_lines)
        first_seconds, first = bring_in(logs, home)
        before = contents(home)
        again_seconds, again = bring_in(logs, home)
        after = contents(home)
    stored, expected = sum(first["stored"].values()), asked.logs - asked.logs // UNFINISHED_EVERY
    sound = before == after and stored == expected and not again["stored"] and again["there"] == stored
    print(f"{asked.logs:,} logs, {size / 1e6:.0f} MB, {asked.points} samples each, {os.cpu_count()} cores")
    print(f"{'import':8}{'seconds':>9}{'stored':>9}{'there':>9}{'skipped':>9}   of which reading, storing")
    for name, seconds, report in (("first", first_seconds, first), ("second", again_seconds, again)):
        skipped = sum(item["count"] for item in report["skipped"].values())
        parts = ", ".join(f"{part:.1f}" for part in report["seconds"].values())
        new = sum(report["stored"].values())
        print(f"{name:8}{seconds:9.1f}{new:9,}{report['there']:9,}{skipped:9,}   {parts}")
    print(
        f"points {before['sweeper_points'][0]:,}; the second import changed {'nothing' if before == after else 'rows'}"
    )
    figures = {"logs": asked.logs, "bytes": size, "first_seconds": round(first_seconds, 2), "sound": sound}
    figures |= {
        "second_seconds": round(again_seconds, 2),
        "points": before["sweeper_points"][0],
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures))
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
