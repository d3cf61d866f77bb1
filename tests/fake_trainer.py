"""A trainer without tensors: speaks the event protocol, ends in a moment, and misbehaves when told to.

Its score depends on optim.matrix_lr alone (best at 0.03), so pruning and "best" have a known answer.  What it exports
has another: after the round trip the best rate is 0.01, and each layer takes a million bytes.
"""

import json
import math
import os
import queue
import sys
import threading
import time
from pathlib import Path


def option(name, default=""):
    return os.environ.get(f"FAKE_{name}", default)


def once(name):
    """Whether the misbehaviour `name` is due: its variable names a marker file that does not exist yet."""
    marker = option(name)
    if not marker or Path(marker).exists():
        return False
    Path(marker).touch()
    return True


def say(event, **fields):
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def total_steps(config):
    budget, batch = config["budget"], config["data"]["batch_tokens"]
    return budget["steps"] or (math.ceil(budget["tokens"] / batch) if budget["tokens"] else int(option("STEPS", "20")))


def bpb(config, progress):
    return 1.2 + math.log10(config["optim"]["matrix_lr"] / 0.03) ** 2 + 2.0 * (1.0 - progress)


def quantised_bpb(config):
    return 1.3 + math.log10(config["optim"]["matrix_lr"] / 0.01) ** 2


def say_scores(config, now, score):
    """As the config asks: overlapping windows gain 0.03, and the artifact has a score of its own."""
    exports, slides = config.get("export", {}).get("scheme", "off") != "off", config["eval"].get("stride", 0) > 0
    quantised = quantised_bpb(config)
    known = {"quantised": quantised if exports else None, "sliding": score - 0.03 if slides else None}
    known["quantised_sliding"] = quantised - 0.03 if exports and slides else None
    for name, bpb in known.items():
        if bpb is not None:
            say("score", name=name, **now, val_loss=bpb * 2, val_bpb=bpb, val_tokens=9, eval_seconds=0.5,
                val_bpb_stderr=0.002)  # fmt: skip
    if exports:
        size = 1_000_000 * config["model"]["num_layers"]
        say("export", scheme=config["export"]["scheme"], codec="zlib", artifact_bytes=size, code_bytes=0,
            raw_bytes=size * 4 // 3, val_bpb=quantised, gap=quantised - score, export_seconds=0.5)  # fmt: skip


def position(config, step):
    return {"step": step, "tokens": step * config["data"]["batch_tokens"], "seconds": step * 0.01}


def train(config, requests):
    folder, total = config["checkpoint"]["path"], total_steps(config)
    saved = Path(folder, "fake.json")
    step = json.loads(saved.read_text())["step"] if folder and saved.exists() else 0
    due = [share for share in (*config["eval"]["fractions"], 1.0) if share > step / total]
    device = config.get("runtime", {}).get("device", "cpu")  # as it was asked to: it trains nowhere
    say("start", device=device, device_name="fake", versions={}, parameters=7, micro_batch_tokens=1, accumulation=1,
        setup_seconds=0.0, resumed_step=step)  # fmt: skip
    while step < total:
        time.sleep(float(option("STEP_SECONDS", "0.01")))
        step += 1
        if step == total // 2 and (option("CRASH_ALWAYS") or once("CRASH_ONCE")):
            sys.stderr.write("segmentation fault, as ordered\n")
            sys.stderr.flush()
            os._exit(3)
        if step == total // 2 and once("HANG_ONCE"):
            time.sleep(3600)
        now, share, score = position(config, step), step / total, bpb(config, step / total)
        say("step", **now, progress=share, train_loss=score * 2, lr_factor=1.0, tokens_per_second=1e5)
        if option("DIVERGE_ABOVE") and config["optim"]["matrix_lr"] > float(option("DIVERGE_ABOVE")):
            return say("end", reason="diverged", **now, wall_seconds=0.1)
        while due and share >= due[0]:
            say("eval", **now, progress=share, fraction=due.pop(0), val_loss=score * 2, val_bpb=score, val_tokens=9,
                eval_seconds=0.0)  # fmt: skip
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            saved.with_suffix(".new").write_text(json.dumps({"step": step}))
            saved.with_suffix(".new").replace(saved)
        if not requests.empty() and not option("IGNORE_STOP"):
            return say("end", reason="stopped", **now, wall_seconds=0.1)
    now, score = position(config, total), bpb(config, 1.0)
    say("outcome", **now, val_loss=score * 2, val_bpb=score, val_tokens=9)
    say_scores(config, now, score)
    return say("end", reason="complete", **now, wall_seconds=0.1)


def serve():
    requests = queue.SimpleQueue()

    def listen():
        for line in sys.stdin:
            requests.put(json.loads(line))
        requests.put({"request": "quit"})
        time.sleep(2.0)
        os._exit(0)  # the worker is gone: not even a trainer that hangs may stay

    threading.Thread(target=listen, daemon=True).start()
    while (request := requests.get())["request"] != "quit":
        if request["request"] == "run":
            train(request["config"], requests)


if __name__ == "__main__":
    serve()
