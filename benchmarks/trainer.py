"""Training speed on this machine: tokens/s, TFLOP/s, and the share of the matrix rate of the same process.

    python -m benchmarks.trainer [--seconds 10] [--only helix]
    torchrun --standalone --nproc-per-node 2 -m benchmarks.trainer    # the same run on two devices

Tokens are random: speed does not depend on them. FLOPs a token are 6 for each weight of a matrix product (tied head
included, embedding look-up free) and 6 · layers · length · width for causal attention; of a helix what its Start says.
Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import device, distributed, events
from trainer.config import ModelConfig, TrainConfig
from trainer.distributed import Group
from trainer.loop import train

SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {
        "3x128 T128 4k": {
            "model": {"num_layers": 3, "model_dim": 128, "num_heads": 4, "num_kv_heads": 2},
            "data": {"seq_len": 128, "batch_tokens": 4096},
        },
        "4x256 T256 8k": {
            "model": {"num_layers": 4, "model_dim": 256, "num_heads": 4, "num_kv_heads": 2},
            "data": {"seq_len": 256, "batch_tokens": 8192},
        },
        "helix 2x128, 4 loops T256 8k": {
            "model": {"family": "helix"},
            "helix": {"d_model": 128, "num_heads": 4, "linear_feature_dim": 32},
            "data": {"seq_len": 256, "batch_tokens": 8192},
            "optim": {"matrix_optimizer": "adamw"},
        },
    },
    "cuda": {
        "9x512 T1024 524k": {"model": {}, "data": {}},
        "7x512 mlp4 T2048 131k": {
            "model": {"num_layers": 7, "mlp_mult": 4},
            "data": {"seq_len": 2048, "batch_tokens": 131_072},
        },
        "12x768 mlp4 V50257 T1024 524k": {
            "model": {
                "vocab_size": 50_257,
                "num_layers": 12,
                "model_dim": 768,
                "num_heads": 12,
                "num_kv_heads": 12,
                "mlp_mult": 4,
            },
            "data": {},
        },
        "helix 2x1024, 4 loops T1024 65k": {
            "model": {"family": "helix", "vocab_size": 50_257},
            "data": {"batch_tokens": 65_536},
            "optim": {"matrix_optimizer": "adamw", "matrix_lr": 1e-3, "embed_lr": 1e-3, "scalar_lr": 1e-3},
        },
    },
}


def write_tokens(folder: Path, vocab: int) -> None:
    """A prepared folder of random tokens, some more likely than others, so that a loss can fall."""
    generator = np.random.default_rng(0)
    likelihood = 1.0 / np.arange(1, vocab + 1)
    for split, count in (("train", 4_000_000), ("val", 1_100_000)):
        header = np.zeros(256, dtype="<i4")
        header[:3] = 20240520, 1, count
        tokens = generator.choice(vocab, size=count, p=likelihood / likelihood.sum()).astype("<u2")
        (folder / f"{split}_000000.bin").write_bytes(header.tobytes() + tokens.tobytes())
    np.save(folder / "token_bytes.npy", np.ones(vocab, dtype=np.int16))


def flops_per_token(model: ModelConfig, seq_len: int) -> float:
    kv_dim = model.num_kv_heads * model.head_dim
    projections = 3 if model.mlp_activation == "swiglu" else 2
    block = model.model_dim * (2 * (model.model_dim + kv_dim) + projections * model.mlp_hidden)
    bigram = model.bigram_dim * model.model_dim if model.bigram_buckets else 0
    passes = len(model.block_order)
    weights = passes * block + bigram + model.model_dim * model.vocab_size
    return 6.0 * weights + 6.0 * passes * seq_len * model.model_dim


def matmul_rate(where: torch.device) -> float:
    """FLOP/s of a large product in the precision that the trainer computes in."""
    size = 8192 if where.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=where, dtype=device.compute_dtype(where))
    seconds = []
    for _ in range(8):
        device.synchronize(where)
        began = time.perf_counter()
        for _ in range(10):
            a @ b
        device.synchronize(where)
        seconds.append((time.perf_counter() - began) / 10)
    return 2 * size**3 / statistics.median(seconds[2:])


def measure(
    values: dict[str, dict[str, Any]], folder: Path, seconds: float, where: torch.device, group: Group
) -> dict[str, float]:
    config = TrainConfig.from_dict(
        {
            **values,
            "data": {**values["data"], "path": str(folder)},
            "budget": {"seconds": seconds},
            "eval": {"val_tokens": 1024, "final_val_tokens": 1024},
            "runtime": {"device": where.type},
        }
    )
    said: list[events.Event] = []
    train(config, said.append, lambda: False, group)
    if isinstance(said[-1], events.Failure):
        raise SystemExit(f"{said[-1].reason}: {said[-1].message}")
    rates = [event.tokens_per_second for event in said if isinstance(event, events.Step)]
    start = next(event for event in said if isinstance(event, events.Start))
    end = said[-1]
    assert isinstance(end, events.End)
    rate = statistics.median(rates[1:] or rates)
    return {
        "tokens_per_second": rate,
        "tflops": rate
        * (start.model.get("flops_per_token") or flops_per_token(config.model, config.data.seq_len))
        / 1e12,
        "setup_seconds": start.setup_seconds,
        "peak_gib": end.peak_memory_bytes / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="training seconds a shape")
    parser.add_argument("--only", default="", help="shapes whose name holds this")
    wanted = parser.parse_args()
    with distributed.joined() as group, contextlib.redirect_stdout(sys.stdout if group.rank == 0 else io.StringIO()):
        benchmark(wanted.seconds, group, wanted.only)


def benchmark(seconds: float, group: Group, only: str = "") -> None:
    """Measure every shape of this kind of device whose name holds `only`, and print what was found."""
    where = device.choose("auto")
    peak = matmul_rate(where)
    print(f"{group.size} x {device.name(where)}, torch {torch.__version__}, matrix rate {peak / 1e12:.3f} TFLOP/s each")
    print(f"{'shape':32} {'tokens/s':>12} {'TFLOP/s':>9} {'share':>6} {'setup s':>8} {'GiB':>6}")
    results = {}
    for shape, values in SHAPES["cuda" if where.type == "cuda" else "cpu"].items():
        if only not in shape:
            continue
        with tempfile.TemporaryDirectory() as name:
            write_tokens(Path(name), values["model"].get("vocab_size", 1024))
            found = results[shape] = measure(values, Path(name), seconds, where, group)
        found["share_of_matmul"] = found["tflops"] * 1e12 / peak / group.size
        print(
            f"{shape:32} {found['tokens_per_second']:12,.0f} {found['tflops']:9.3f} "
            f"{found['share_of_matmul']:6.1%} {found['setup_seconds']:8.1f} {found['peak_gib']:6.1f}",
            flush=True,
        )
    print(
        json.dumps(
            {"device": device.name(where), "devices": group.size, "matmul_tflops": peak / 1e12, "shapes": results}
        )
    )


if __name__ == "__main__":
    main()
