"""Does the fast path train the same model?  200 steps, against eager float32 and eager bfloat16 of other kernels.

    python -m benchmarks.numerics --data FOLDER [--steps 200] [--seeds 4] [--first-seed 0]

From one seed each: the fast path (compiled bfloat16 blocks, our kernels, the fastest attention), eager float32, and
two eager bfloat16 runs whose every kernel differs: flash attention and the batch in one pass, plain attention and the
batch in four. The fast path may differ from float32 by no more than those two differ from each other. Needs CUDA.
Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainer import device, schedule
from trainer.batches import TrainBatches
from trainer.config import ModelConfig, OptimConfig, ScheduleConfig
from trainer.data import open_corpus
from trainer.models.gpt import GPT
from trainer.optim import Optimizers

SEQ_LEN, SEQUENCES, LAST = 512, 32, 10
PLAIN = {"flash": (SDPBackend.FLASH_ATTENTION, 1), "math by 4": (SDPBackend.MATH, 4)}
"""Attention and passes a batch of the eager bfloat16 runs: other shapes take other matrix kernels."""


def losses(kind: str, seed: int, steps: int, folder: Path) -> list[float]:
    """Training loss of every step; the same initial weights, batches and rates whatever the kind."""
    where = torch.device("cuda")
    torch.manual_seed(seed)
    model = GPT(ModelConfig(), torch.float32 if kind == "float32" else torch.bfloat16).to(where)
    if kind == "fast":
        model.compile_blocks()
    config = OptimConfig()
    optimizers = Optimizers(model, config)
    batches = TrainBatches(open_corpus(folder, where).train, SEQ_LEN, seed)
    found = []
    attention = sdpa_kernel(PLAIN[kind][0]) if kind in PLAIN else contextlib.nullcontext()
    passes = PLAIN[kind][1] if kind in PLAIN else 1
    with device.fast_attention(where) if kind == "fast" else attention:
        for step in range(steps):
            progress = (step + 0.5) / steps
            parts = []
            for _ in range(passes):
                loss = model(*batches.take(SEQUENCES // passes)) / passes
                loss.backward()
                parts.append(loss.detach())
            optimizers.step(
                lr_factor=schedule.lr_factor(ScheduleConfig(), progress), momentum=schedule.momentum(config, progress)
            )
            found.append(torch.stack(parts).sum())
    return torch.stack(found).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared folder")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    kinds = ("fast", "float32", *PLAIN)
    print(
        f"mean training loss of the last {LAST} of {arguments.steps} steps, nats\nseed  "
        + "  ".join(f"{k:>9}" for k in kinds)
    )
    gaps: dict[str, list[float]] = {f"{a} - {b}": [] for a, b in itertools.combinations(kinds, 2)}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        ends = {kind: statistics.mean(losses(kind, seed, arguments.steps, arguments.data)[-LAST:]) for kind in kinds}
        print(f"{seed:4}  " + "  ".join(f"{ends[kind]:9.5f}" for kind in kinds), flush=True)
        for a, b in itertools.combinations(kinds, 2):
            gaps[f"{a} - {b}"].append(abs(ends[a] - ends[b]))
    print("mean distance, nats: " + ", ".join(f"{pair} {statistics.mean(found):.5f}" for pair, found in gaps.items()))
    print(json.dumps(gaps))


if __name__ == "__main__":
    main()
