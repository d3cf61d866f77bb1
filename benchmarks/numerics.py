"""Does the fast path train the same model?  200 steps, against eager float32 and eager bfloat16 of other kernels.

    python -m benchmarks.numerics --data FOLDER [--steps 200] [--seeds 3]

From one seed each: the fast path (compiled bfloat16 blocks, our kernels, the fastest attention), eager float32, and
eager bfloat16 with flash, cuDNN and plain attention. The fast path may differ from float32 by no more than the
bfloat16 runs differ from each other. Needs CUDA. Prints a table and one JSON line.
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
from trainer.config import ModelConfig, OptimConfig, ScheduleConfig
from trainer.data import TrainBatches, open_corpus
from trainer.models.gpt import GPT
from trainer.optim import Optimizers

SEQ_LEN, SEQUENCES, LAST = 512, 32, 10
ATTENTION = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}


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
    attention = sdpa_kernel(ATTENTION[kind]) if kind in ATTENTION else contextlib.nullcontext()
    with device.fast_attention(where) if kind == "fast" else attention:
        for step in range(steps):
            progress = (step + 0.5) / steps
            loss = model(*batches.take(SEQUENCES))
            loss.backward()
            optimizers.step(
                lr_factor=schedule.lr_factor(ScheduleConfig(), progress), momentum=schedule.momentum(config, progress)
            )
            found.append(loss.detach())
    return torch.stack(found).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared folder")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    kinds = ("fast", "float32", *ATTENTION)
    print(
        f"mean training loss of the last {LAST} of {arguments.steps} steps, nats\nseed  "
        + "  ".join(f"{k:>9}" for k in kinds)
    )
    fast_to_float32, between_bfloat16 = [], []
    for seed in range(arguments.seeds):
        ends = {kind: statistics.mean(losses(kind, seed, arguments.steps, arguments.data)[-LAST:]) for kind in kinds}
        print(f"{seed:4}  " + "  ".join(f"{ends[kind]:9.5f}" for kind in kinds), flush=True)
        fast_to_float32.append(abs(ends["fast"] - ends["float32"]))
        between_bfloat16 += [abs(ends[a] - ends[b]) for a, b in itertools.combinations(ATTENTION, 2)]
    summary = {
        "fast_to_float32_mean": statistics.mean(fast_to_float32),
        "fast_to_float32_max": max(fast_to_float32),
        "between_bfloat16_mean": statistics.mean(between_bfloat16),
        "between_bfloat16_max": max(between_bfloat16),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
