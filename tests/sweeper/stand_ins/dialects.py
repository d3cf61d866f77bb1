"""Logs in the other ways in which forks of train_gpt.py do, without training: `--dialect` says which.

Knobs are arguments here: --matrix_lr, --iterations and --max_wallclock_seconds.
"""

import argparse
import math
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--dialect")
parser.add_argument("--matrix_lr", type=float)
parser.add_argument("--iterations", type=int)
parser.add_argument("--max_wallclock_seconds", type=float)
parser.add_argument("--seed", type=int)
parser.add_argument("--fast-math", type=int, default=0)
known = parser.parse_args()
TOTAL = known.iterations


def bpb(step):
    return 1.2 + math.log10(known.matrix_lr / 0.03) ** 2 + 2.0 * (1.0 - step / TOTAL)


def table(step):
    """Hyperparameters first, then rows without `step:` and times in minutes."""
    if step == 0:
        print(f"Hyperparameters:\n  train_batch_tokens: 65536\n  iterations: {TOTAL}\n  matrix_lr: {known.matrix_lr}")
    if step % 5 == 0:
        print(f"{step}/{TOTAL} val_loss: {bpb(step) * 1.7:.4f} val_bpb: {bpb(step):.4f}")
    print(f"{step}/{TOTAL} train_loss: {bpb(step) * 1.7:.4f} train_time: {step / 60:.1f}m tok/s: 7981133")


def short(step):
    """`loss` and `t`; two ranks say everything, and one of them half a line more."""
    for rank in range(2):
        print(f"[rank{rank}]: step:{step}/{TOTAL} loss:{bpb(step) * 1.7:.2f} t:{step * 91}ms avg:91.5ms")
        if step % 5 == 0:
            print(f"[rank{rank}]: step:{step}/{TOTAL} val_loss:{bpb(step) * 1.7:.4f} val_bpb:{bpb(step):.4f}")
    print(f"step:{step}/{TOTAL} val_loss:9.99 val_")


def averaged(step):
    """Averages of weights and late quantisation in training, announced; scores of every kind at the end."""
    if step == TOTAL // 2:
        print(f"swa:start step:{step}\nlate_qat:enabled step:{step}/{TOTAL} train_time:1ms frac:0.5")
    if step % 5 == 0:
        print(f"step:{step}/{TOTAL} val_loss:{bpb(step) * 1.7:.4f} val_bpb:{bpb(step):.4f} train_time:{step}ms")
    if step == TOTAL:
        final = bpb(step) - 0.01
        print(f"DIAGNOSTIC post_ema val_loss:{final * 1.7:.4f} val_bpb:{final:.4f} eval_time:10ms")
        print("Total submission size int6+zstd: 15000000 bytes")
        for name, gap in (("final_int6_roundtrip", 0.02), ("final_int6_sliding_window", -0.02)):
            print(f"{name} val_loss:{(final + gap) * 1.7:.4f} val_bpb:{final + gap:.4f} eval_time:10ms")
            print(f"{name}_exact val_loss:{(final + gap) * 1.7:.8f} val_bpb:{final + gap:.8f}")


for now in range(TOTAL + 1):
    globals()[known.dialect](now)
    sys.stdout.flush()
    time.sleep(5.0 if known.matrix_lr != 0.03 and now == TOTAL // 2 else 0.005)  # long for the order to stop
