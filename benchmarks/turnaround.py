"""How much of a worker's time trains: N trials, one after another, in one trainer process.

    python -m benchmarks.turnaround [--trials 20] [--seconds 15] [--data FOLDER]

Rates, decay, seeds, batch (4 values) and depth (4 values) vary from trial to trial. Busy share is training seconds
over wall seconds; turnaround is what a trial takes besides. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.trainer import write_tokens
from trainer import events

SIZES: dict[str, dict[str, Any]] = {
    "cuda": {
        "model": {"mlp_mult": 4},
        "data": {"seq_len": 2048, "micro_batch_tokens": 65_536},
        "depths": [5, 6, 7, 9],
        "batches": [65_536, 131_072, 262_144, 524_288],
        "val_tokens": 2_097_152,
    },
    "cpu": {
        "model": {"model_dim": 128, "num_heads": 4, "num_kv_heads": 2},
        "data": {"seq_len": 128},
        "depths": [1, 2, 3, 4],
        "batches": [1_024, 2_048, 4_096, 8_192],
        "val_tokens": 16_384,
    },
}


def configs(size: dict[str, Any], trials: int, seconds: float, folder: str) -> list[dict[str, Any]]:
    """Trials that differ in every swept axis; four in a row differ in depth and batch."""
    made = []
    for trial in range(trials):
        depth, batch = size["depths"][trial % 4], size["batches"][(trial + trial // 4) % 4]
        rate = 0.01 * 1.2 ** (trial % 10)
        made.append(
            {
                "model": {**size["model"], "num_layers": depth},
                "optim": {"matrix_lr": rate, "scalar_lr": rate, "matrix_weight_decay": 0.01 * (trial % 5)},
                "data": {**size["data"], "path": folder, "batch_tokens": batch},
                "seeds": {"init": trial, "data": trial},
                "budget": {"seconds": seconds},
                "eval": {
                    "fractions": [0.3, 0.6],
                    "val_tokens": size["val_tokens"],
                    "final_val_tokens": size["val_tokens"],
                },
            }
        )
    return made


def run(process: subprocess.Popen[str], config: dict[str, Any]) -> tuple[events.Start, events.End, float]:
    """One trial and its wall seconds, from the request to its end."""
    assert process.stdin and process.stdout
    began = time.perf_counter()
    process.stdin.write(json.dumps({"request": "run", "config": config}) + "\n")
    process.stdin.flush()
    start: events.Start | None = None
    for line in process.stdout:
        event = events.decode(line)
        if isinstance(event, events.Start):
            start = event
        elif isinstance(event, events.Failure):
            raise SystemExit(f"{event.reason}: {event.message}\n{event.traceback}")
        elif isinstance(event, events.End):
            assert start is not None
            return start, event, time.perf_counter() - began
    raise SystemExit("the trainer went away")


def measure(process: subprocess.Popen[str], number: int, config: dict[str, Any]) -> dict[str, float]:
    """Run one trial and print its line."""
    start, end, wall = run(process, config)
    sizes = f"{number:5} {config['model']['num_layers']:6} {config['data']['batch_tokens']:9,}"
    note = "" if end.reason == "complete" else f"  {end.reason}: {end.detail}"
    print(
        f"{sizes} {end.seconds:8.2f} {wall:8.2f} {start.setup_seconds:8.2f} {wall - end.seconds:13.2f}{note}",
        flush=True,
    )
    return {"train": end.seconds, "wall": wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=15.0, help="training seconds a trial")
    parser.add_argument("--data", help="a prepared folder; random tokens without it")
    arguments = parser.parse_args()
    size = SIZES["cuda" if torch.cuda.is_available() else "cpu"]
    with tempfile.TemporaryDirectory() as name:
        if not arguments.data:
            write_tokens(Path(name), 1024)
        trials = configs(size, arguments.trials, arguments.seconds, arguments.data or name)
        command = [sys.executable, "-m", "trainer", "serve"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            began = time.perf_counter()
            print("trial layers     batch  train s   wall s  setup s  turnaround s")
            rows = [measure(process, number, config) for number, config in enumerate(trials)]
            wall = time.perf_counter() - began
            assert process.stdin
            process.stdin.close()
    later = rows[5:] or rows
    summary = {
        "busy_share": sum(row["train"] for row in rows) / wall,
        "busy_share_from_sixth": sum(row["train"] for row in later) / sum(row["wall"] for row in later),
        "turnaround_p50_seconds": statistics.median(row["wall"] - row["train"] for row in rows),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
