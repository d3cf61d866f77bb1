"""What each option costs a step and does to val_bpb: short runs against a control with the same seeds.

    python -m benchmarks.options --data FOLDER [--seconds 20] [--only "NAME;NAME"] [--seeds 1] [--controls 4]

Everything else is as in the second configuration of benchmarks.trainer. Two controls of one seed differ by what the
device's own disorder does, controls of several seeds by the noise of a seed; both are printed. Prints a table and one
JSON line; docs/options.md keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from typing import Any

import torch

from trainer import events
from trainer.config import TrainConfig
from trainer.loop import train

Values = dict[str, dict[str, Any]]

BASE: dict[str, Values] = {
    "cuda": {
        "model": {"num_layers": 7, "mlp_mult": 4, "rope_base": 50_000.0, "qk_gain_init": 1.0},
        "optim": {"matrix_lr": 0.035, "scalar_lr": 0.035, "embed_lr": 0.09, "grad_clip": 0.3},
        "schedule": {"warmdown": 0.45},
        "data": {"seq_len": 2048, "batch_tokens": 131_072},
        "eval": {"val_tokens": 1_048_576, "final_val_tokens": 1_048_576},
    },
    "cpu": {
        "model": {"num_layers": 3, "model_dim": 128, "num_heads": 4, "num_kv_heads": 2},
        "data": {"seq_len": 128, "batch_tokens": 4_096},
        "eval": {"val_tokens": 16_384, "final_val_tokens": 16_384},
    },
}
OPTIONS: dict[str, Values] = {
    "bigram": {"model": {"bigram_buckets": 4096}},
    "untied head": {"model": {"tie_embeddings": False}, "optim": {"embed_lr": 0.6}},
    "overtone": {"model": {"embed_init": "overtone"}},
    "orthogonal": {"model": {"linear_init": "orthogonal"}},
    "orthogonal projections": {"model": {"linear_init": "orthogonal_projections"}},
    "phase resid mix": {"model": {"resid_mix_init": "phase"}},
    "xsa last 2": {"model": {"xsa_last_layers": 2}},
    "rope dims half": {"model": {"rope_dims": 32}},
    "rope base 10k": {"model": {"rope_base": 10_000.0}},
    "q gain 1.5": {"model": {"qk_gain_init": 1.5}},
    "mlp 3": {"model": {"mlp_mult": 3}},
    "leaky relu2": {"model": {"mlp_activation": "leaky_relu2"}},
    "swiglu": {"model": {"mlp_activation": "swiglu"}},
    "smear gate": {"model": {"smear_gate": True}},
    "norm scale": {"model": {"layer_norm_scale": True}},
    "loop 1 block": {"model": {"loop_first": 1, "loop_blocks": 1}},
    "parallel last 2": {"model": {"parallel_last_layers": 2}},
    "label smoothing .01": {"model": {"label_smoothing": 0.01}},
    "muon decay .025": {"optim": {"matrix_weight_decay": 0.025}},
    "adam decay .01": {"optim": {"adam_weight_decay": 0.01}},
    "no clip": {"optim": {"grad_clip": 0.0}},
    "momentum .97": {"optim": {"momentum": 0.97}},
    "polar express": {"optim": {"newton_schulz": "polar_express"}},
    "4 iterations": {"optim": {"newton_schulz_steps": 4}},
    "warmdown .7": {"schedule": {"warmdown": 0.7}},
    "floor .1": {"schedule": {"final_lr": 0.1}},
    "ema": {"optim": {"average": "ema"}},
    "swa": {"optim": {"average": "swa"}},
    "int8": {"export": {"scheme": "int8"}},
    "int6_int8": {"export": {"scheme": "int6_int8"}},
    "int6_int8, least error": {"export": {"scheme": "int6_int8", "clip": "least_error"}},
    "int6_int8, fp16 embedding": {"export": {"scheme": "int6_int8", "fp16_embedding": True}},
    "int6_int8, qat": {"export": {"scheme": "int6_int8", "qat_from": 0.85}},
    "int6_int8, prune .05": {"export": {"scheme": "int6_int8", "prune": 0.05}},
    "int6_int8, zstd": {"export": {"scheme": "int6_int8", "codec": "zstd"}},
    "sliding, half a window": {"eval": {"stride": 1024}},
}
"""The values that an option lays over the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one run came to."""

    milliseconds: float
    """A step."""
    val_bpb: float
    scores: dict[str, float]
    artifact_bytes: int


def run(kind: str, overrides: Values, data: str, seconds: float, seed: int) -> Found:
    parts = {*BASE[kind], *overrides}
    values = {part: {**BASE[kind].get(part, {}), **overrides.get(part, {})} for part in parts}
    values["data"] = {**values["data"], "path": data}
    values |= {"budget": {"seconds": seconds}, "seeds": {"init": seed, "data": seed}}
    said: list[events.Event] = []
    train(TrainConfig.from_dict(values), said.append, lambda: False)
    end = said[-1]
    outcome = next((event for event in said if isinstance(event, events.Outcome)), None)
    if not isinstance(end, events.End) or outcome is None:
        raise SystemExit(f"{overrides}: {end}")
    return Found(
        milliseconds=1000 * end.seconds / end.step,
        val_bpb=outcome.val_bpb,
        scores={event.name: event.val_bpb for event in said if isinstance(event, events.Score)},
        artifact_bytes=next((event.artifact_bytes for event in said if isinstance(event, events.Export)), 0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a prepared folder")
    parser.add_argument("--seconds", type=float, default=20.0, help="training seconds a run")
    parser.add_argument("--only", help="names of options, semicolons between; all without it")
    parser.add_argument("--seeds", type=int, default=1, help="of each option, paired with the controls'")
    parser.add_argument("--controls", type=int, default=4, help="seeds of the control; the first is run twice")
    arguments = parser.parse_args()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    names = [name for name in OPTIONS if not arguments.only or name in arguments.only.split(";")]
    runs = max(arguments.controls, arguments.seeds)
    controls = [run(kind, {}, arguments.data, arguments.seconds, seed) for seed in range(runs)]
    again = run(kind, {}, arguments.data, arguments.seconds, 0)
    step = statistics.median(control.milliseconds for control in controls)
    noise = statistics.stdev(control.val_bpb for control in controls) if runs > 1 else 0.0
    print(
        f"control: {step:.2f} ms a step, val_bpb {statistics.mean(c.val_bpb for c in controls):.4f}, of a seed "
        f"± {noise:.4f}, of the same seed again {again.val_bpb - controls[0].val_bpb:+.4f}",
        flush=True,
    )
    print(f"{'option':28} {'ms a step':>9} {'more':>7} {'val_bpb':>8} {'effect':>8}  other scores, artifact")
    results = {}
    for name in names:
        found = [run(kind, OPTIONS[name], arguments.data, arguments.seconds, seed) for seed in range(arguments.seeds)]
        effect = statistics.mean(a.val_bpb - b.val_bpb for a, b in zip(found, controls, strict=False))
        cost = statistics.mean(one.milliseconds for one in found)
        last = found[-1]
        others = ", ".join(f"{score} {value:.4f}" for score, value in last.scores.items())
        others += f", {last.artifact_bytes:,} bytes" if last.artifact_bytes else ""
        print(f"{name:28} {cost:9.2f} {cost - step:+7.2f} {last.val_bpb:8.4f} {effect:+8.4f}  {others}", flush=True)
        results[name] = {"milliseconds": cost, "effect": effect, "scores": last.scores, "bytes": last.artifact_bytes}
    print(json.dumps({"control_milliseconds": step, "noise": noise, "seconds": arguments.seconds, "options": results}))


if __name__ == "__main__":
    main()
