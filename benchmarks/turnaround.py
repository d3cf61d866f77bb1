"""How much of a worker's time trains: N trials, one after another, in one trainer process.

    python -m benchmarks.turnaround [--trials 20] [--seconds 15] [--data FOLDER]

Rates, decay, seeds, batch (4 values) and depth (4 values) vary from trial to trial. Busy share is training seconds
over wall seconds; turnaround is what a trial takes besides: set-up, two rungs and the final validation, all on the
same tokens. The first trial compiles; the count of graphs must stay where it leaves it. Prints a table and one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
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
        "val_tokens": 524_288,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial as its events told it; seconds."""

    start: events.Start
    end: events.End
    wall: float
    """From the request to the end."""
    validation: float


def run(process: subprocess.Popen[str], config: dict[str, Any]) -> Trial:
    assert process.stdin and process.stdout
    began = time.perf_counter()
    process.stdin.write(json.dumps({"request": "run", "config": config}) + "\n")
    process.stdin.flush()
    start: events.Start | None = None
    validation = 0.0
    for line in process.stdout:
        event = events.decode(line)
        if isinstance(event, events.Start):
            start = event
        elif isinstance(event, events.Eval):
            validation += event.eval_seconds
        elif isinstance(event, events.Failure):
            raise SystemExit(f"{event.reason}: {event.message}\n{event.traceback}")
        elif isinstance(event, events.End):
            assert start is not None
            return Trial(start=start, end=event, wall=time.perf_counter() - began, validation=validation)
    raise SystemExit("the trainer went away")


def measure(process: subprocess.Popen[str], number: int, config: dict[str, Any]) -> Trial:
    """Run one trial and print its line."""
    trial = run(process, config)
    print(
        f"{number:5} {config['model']['num_layers']:6} {config['data']['batch_tokens']:9,} {trial.end.seconds:8.2f} "
        f"{trial.wall:8.2f} {trial.start.setup_seconds:8.2f} {trial.validation:13.2f} "
        f"{trial.wall - trial.end.seconds:13.2f} {trial.start.compiled_graphs:7}"
        + ("" if trial.end.reason == "complete" else f"  {trial.end.reason}: {trial.end.detail}"),
        flush=True,
    )
    return trial


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
            print("trial layers     batch  train s   wall s  setup s  validation s  turnaround s  graphs")
            rows = [measure(process, number, config) for number, config in enumerate(trials)]
            wall = time.perf_counter() - began
            assert process.stdin
            process.stdin.close()
    later = rows[5:] or rows
    summary = {
        "busy_share": sum(row.end.seconds for row in rows) / wall,
        "busy_share_from_sixth": sum(row.end.seconds for row in later) / sum(row.wall for row in later),
        "turnaround_p50_seconds": statistics.median(row.wall - row.end.seconds for row in rows),
        "graphs_after_first_trial": rows[0].start.compiled_graphs,
        "graphs_after_last_trial": rows[-1].start.compiled_graphs,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
