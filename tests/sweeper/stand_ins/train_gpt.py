"""Logs as parameter-golf's train_gpt.py does, without training: knobs are environment variables, stdout is the log.

Its loss depends on MATRIX_LR alone, best at 0.03.  As the real one it prints its own source first and leaves
files beside itself, which it reads back.
"""

import math
import os
import time
from pathlib import Path

ITERATIONS = int(os.environ.get("ITERATIONS", 20000))
CAP_MS = 1000.0 * float(os.environ.get("MAX_WALLCLOCK_SECONDS", 600.0))
MATRIX_LR = float(os.environ.get("MATRIX_LR", 0.04))
VAL_LOSS_EVERY = int(os.environ.get("VAL_LOSS_EVERY", 1000))
TRAIN_BATCH_TOKENS = int(os.environ.get("TRAIN_BATCH_TOKENS", 524288))
STEP_SECONDS = float(os.environ.get("STAND_IN_STEP_SECONDS", 0.01))
print(Path(__file__).read_text())
print("=" * 100)
print("model_params:17059912")
print("world_size:1 grad_accum_steps:8")
print(f"train_batch_tokens:{TRAIN_BATCH_TOKENS} train_seq_len:1024 max_wallclock_seconds:{CAP_MS / 1000:.3f}")
print(f"seed:{os.environ.get('SEED', 1337)}")
for i in range(2):
    print(f"warmup_step:{i + 1}/2")


def bpb(share):
    return 1.2 + math.log10(MATRIX_LR / 0.03) ** 2 + 2.0 * (1.0 - share)


step, spent_ms, stop_at = 0, 0.0, None
while True:
    share = max(step / ITERATIONS, spent_ms / CAP_MS if CAP_MS else 0.0)
    timing = f"train_time:{spent_ms:.0f}ms step_avg:{spent_ms / max(step, 1):.2f}ms"
    last = step == ITERATIONS or (stop_at is not None and step >= stop_at)
    if last or (VAL_LOSS_EVERY and step % VAL_LOSS_EVERY == 0):
        score = bpb(min(1.0, share))
        print(f"step:{step}/{ITERATIONS} val_loss:{score * 1.7:.4f} val_bpb:{score:.4f} {timing}")
    if last:
        if step < ITERATIONS:
            print(f"stopping_early: wallclock_cap train_time:{spent_ms:.0f}ms step:{step}/{ITERATIONS}")
        break
    time.sleep(STEP_SECONDS)
    step, spent_ms = step + 1, spent_ms + 1000 * STEP_SECONDS
    if CAP_MS and spent_ms >= CAP_MS:
        stop_at = step
    loss = math.nan if MATRIX_LR > 1 else bpb(share) * 1.7
    print(f"step:{step}/{ITERATIONS} train_loss:{loss:.4f} train_time:{spent_ms:.0f}ms step_avg:1.00ms")
    if MATRIX_LR != 0.03 and step == 25:
        time.sleep(float(os.environ.get("STAND_IN_LINGER", 0)))  # for the order to stop
    if os.environ.get("STAND_IN_CRASH"):
        raise SystemExit("device-side assert, as ordered")

print("peak memory allocated: 1234 MiB reserved: 1300 MiB")
Path("final_model.int8.ptz").write_text(f"{bpb(1.0) + 0.0072:.8f}")
size = round(12e6 + 3e6 * math.log10(MATRIX_LR * 1000))
print(f"Code size: 50000 bytes\nSerialized model int8+zlib: {size} bytes (payload:17178912 raw_torch:17224025)")
print(f"Total submission size int8+zlib: {size + 50000} bytes")
time.sleep(0.05)
quantised = float(Path("final_model.int8.ptz").read_text())
print(f"final_int8_zlib_roundtrip val_loss:{quantised * 1.7:.4f} val_bpb:{quantised:.4f} eval_time:1401ms")
print(f"final_int8_zlib_roundtrip_exact val_loss:{quantised * 1.7:.8f} val_bpb:{quantised:.8f}")
