"""A study whose trials follow known laws, written to the tables in bulk."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
from sqlalchemy import Engine, insert
from sqlalchemy.orm import Session

from sweeper.tables import OutcomeRow, PointRow, PromotionRow, RunRow, StudyRow
from trainer.config import TrainConfig

NAME = "laws"
TAU = 0.2
EXPONENTS = {"n_params": -0.3, "batch_tokens": 0.45, "tokens": -0.2}
NOISE = 0.001
SPACE: dict[str, Any] = {
    "optim.matrix_lr": {"log": [0.002, 0.3], "tie": {}},
    "optim.matrix_weight_decay": {"uniform": [0.0, 0.3], "tie": {}},
    "data.batch_tokens": {"choice": [32_768, 65_536, 131_072, 262_144], "tie": {}},
    "model.num_layers": {"choice": [4, 6, 9, 13], "tie": {}},
}


def best_rate(layers: float, batch: float, tokens: float) -> float:
    size = (layers / 9) ** EXPONENTS["n_params"]
    batches = (batch / 131_072) ** EXPONENTS["batch_tokens"]
    return float(0.03 * size * batches * (tokens / 2e8) ** EXPONENTS["tokens"])


def loss(layers: float, batch: float, tokens: float, rate: float, tau: float) -> float:
    """Bits per byte without noise."""
    steps = tokens / batch
    tuned = 0.7 + 0.25 * (layers / 9) ** -0.4 + 0.25 * (steps / 2000) ** -0.3 + 0.22 * (batch / 131_072) ** -0.35
    off = np.log2(rate / best_rate(layers, batch, tokens))
    return float(tuned * (1 + 0.004 * off**2 + 0.003 * np.log2(tau / TAU) ** 2))


def step_seconds(layers: float, batch: float) -> float:
    return float(0.01 + 0.002 * layers + batch * layers * 3e-8)


def write(
    engine: Engine,
    trials: int = 480,
    *,
    name: str = NAME,
    timed: bool = False,
    points: int = 0,
    promotions: int = 0,
    ladder: bool = False,
    judge: str = "final",
    equal_flops: bool = False,
    repeats: int = 1,
) -> int:
    """Trials spread over 4 depths, 4 batches and 3 horizons; every 13th was pruned, the fastest rates diverged.

    Args:
        timed: horizons are seconds on one device, not tokens.
        points: validations of each trial's curve.
        ladder: each trial also has the outcome of half its budget.
        equal_flops: six depths of one batch at three budgets, the best of each inside; the other layout has none.
        repeats: trials of equal values that follow each other.
    """
    random = np.random.default_rng(3)
    layouts = list(itertools.product((4, 6, 9, 13), (32_768, 65_536, 131_072, 262_144), (1e8, 2e8, 4e8)))
    if equal_flops:
        depths = (3, 4, 6, 9, 13, 18)
        layouts = [(d, 131_072, 2e8 / d * 3.0**k) for k in range(3) for d in depths]
    now = time.time()
    budget = {"seconds": 600.0 if timed else None, "tokens": None if timed else 4e8, "rungs": [0.3, 0.6]}
    spec = {"name": name, "trials": trials, "space": SPACE, "budget": budget, "judge": judge}
    with Session(engine) as session:
        study = StudyRow(name=name, spec=spec, fingerprint="f" * 64, state="running", created_at=now - 900)
        session.add(study)
        session.commit()
        rows, outcomes, curve = [], [], []
        first = (session.query(RunRow.id).order_by(RunRow.id.desc()).limit(1).scalar() or 0) + 1
        for number in range(trials + promotions):
            kind = "trial" if number < trials else "promotion"
            at = number if kind == "trial" else number - trials
            layers, batch, horizon = (
                layouts[number // repeats % len(layouts)] if kind == "trial" else (9, 131_072, 1.6e9)
            )
            if timed:
                horizon = {1e8: 150, 2e8: 300, 4e8: 600, 1.6e9: 2400}[horizon] / step_seconds(layers, batch) * batch
            drawn = np.random.default_rng([3, number // repeats]) if repeats > 1 else random
            made = _run(drawn, layers, batch, horizon, kind, number, random)
            state, score = made.pop("state"), made.pop("score")
            row = {"id": first + number, "study_id": study.id, "kind": kind, "number": at, "state": state, **made}
            rows.append(row | {"score": score, "score_stderr": NOISE if score else None, "created_at": now - 800,
                               "started_at": now - 799, "ended_at": now - 700 + number / 100})  # fmt: skip
            if score is not None:
                shares = (0.5, 1.0) if ladder else (1.0,)
                outcomes += [_outcome(first + number, made, score, share) for share in shares]
            curve += _points(first + number, made["progress"], score or 1.6, points, random)
        session.execute(insert(RunRow), rows)
        session.execute(insert(OutcomeRow), outcomes)
        if curve:
            session.execute(insert(PointRow), curve)
        for at in range(promotions):
            session.add(PromotionRow(study_id=study.id, number=at, trial_number=8, plan={"tokens": 1}, state="complete",
                                     created_at=now))  # fmt: skip
        session.commit()
        return study.id


def _run(
    random: np.random.Generator,
    layers: int,
    batch: int,
    horizon: float,
    kind: str,
    number: int,
    luck: np.random.Generator,
) -> dict[str, Any]:
    steps = round(horizon / batch)
    tokens = steps * batch
    spread = 2.0 if kind == "trial" else 0.01
    rate = best_rate(layers, batch, tokens) * 2.0 ** random.uniform(-spread, 1.2 * spread)
    tau = TAU * 2.0 ** random.uniform(-spread, spread)
    decay = 1 / (tau * rate * steps)
    diverged = rate > best_rate(layers, batch, tokens) * 2.0**2.2
    pruned = kind == "trial" and number % 13 == 12 and not diverged
    state = "diverged" if diverged else "pruned" if pruned else "complete"
    progress = {"diverged": 0.1, "pruned": 0.3, "complete": 1.0}[state]
    params = {"optim.matrix_lr": rate, "optim.matrix_weight_decay": decay, "data.batch_tokens": batch,
              "model.num_layers": layers}  # fmt: skip
    config = TrainConfig().to_dict()
    for path, value in params.items():
        section, _, key = path.partition(".")
        config[section] = {**config[section], key: value}
    score = loss(layers, batch, tokens, rate, tau) + NOISE * luck.standard_normal() if state == "complete" else None
    done = max(1, round(steps * progress))
    return {
        "params": params, "config": config, "parameters": None, "state": state, "progress": progress, "step": done,
        "tokens": done * batch, "seconds": done * step_seconds(layers, batch), "score": score, "val_bpb": score,
        "reason": "behind at 30 %" if pruned else "", "device": "cuda", "device_name": "NVIDIA H100",
        "wall_seconds": 1.0, "attempt": 1, "worker": "w", "last_seq": 1, "train_loss": 2.0, "peak_memory_bytes": 1,
        "stop_requested": "", "infeasible": "", "versions": {}, "git_commit": "", "resumed_step": 0,
    }  # fmt: skip


def _outcome(run: int, made: dict[str, Any], score: float, share: float) -> dict[str, Any]:
    step = round(made["step"] * share)
    batch = made["tokens"] // made["step"]
    worse = score * (1 + 0.05 * (1 - share))
    return {"run_id": run, "tokens": step * batch, "step": step, "seconds": made["seconds"] * share, "val_loss": worse,
            "branch_seconds": 0.0, "val_bpb": worse, "val_tokens": 65_536, "val_bpb_stderr": NOISE, "targets": None,
            "budget": None if share == 1 else share}  # fmt: skip


def _points(run: int, progress: float, end: float, count: int, random: np.random.Generator) -> list[dict[str, Any]]:
    shares = [share for share in np.linspace(0.1, 1.0, max(count, 1)) if share <= progress + 1e-9] if count else []
    return [
        {"run_id": run, "seq": seq, "step": seq, "tokens": seq, "seconds": 1.0, "progress": float(share),
         "fraction": float(share), "train_loss": None, "lr_factor": None, "tokens_per_second": None, "val_loss": 2.0,
         "val_bpb": end + 1.2 * (1 - share) + 0.1 * (1 - share) * random.standard_normal(), "val_bpb_stderr": 0.002}
        for seq, share in enumerate(shares)
    ]  # fmt: skip
