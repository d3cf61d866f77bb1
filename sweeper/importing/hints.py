"""What columns that nobody mapped probably are: proposals for --map, never used by themselves.  Pure.

Their units are not known, or the name means different things to different people, so a person decides.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence

from sweeper.command import KNOB
from sweeper.importing.names import ROLES, known_paths, strip
from sweeper.importing.runs import Run
from sweeper.observations_recipe import ALIASES, WHOLE

SEQUENCE = "SEQ_LEN"
BYTES = "BYTES_PER_TOKEN"
SCORE_FROM_LOSS = f"score*1.4427/{BYTES}"
"""Bits per byte of nats per token: 1/ln 2 = 1.4427 bits a nat."""
WORDS = {
    SEQUENCE: f"{SEQUENCE} is the number of tokens in a sequence",
    BYTES: f"{BYTES} is the mean number of bytes that a token of the validation text stands for",
}

_USUAL: dict[str, tuple[str, ...]] = {
    "optim.matrix_lr": ("lr", "learning_rate", "max_lr", "peak_lr", "base_lr"),
    "optim.matrix_weight_decay": ("wd", "weight_decay", "decay"),
    f"data.batch_tokens*{SEQUENCE}": ("batch_size", "batch", "bs", "global_batch_size", "total_batch_size"),
    "data.batch_tokens": ("batch_size_tokens", "bs_tokens", "tokens_per_step", "tokens_per_batch"),
    "data.seq_len": ("block_size", "context", "context_length", "ctx_len", "seq_length", "sequence_length"),
    "model.num_layers": ("n_layer", "n_layers", "depth", "layers", "num_hidden_layers"),
    "model.model_dim": ("n_embd", "d_model", "hidden_size", "width", "dim"),
    "model.num_heads": ("n_head", "n_heads", "heads", "num_attention_heads"),
    "seeds.init": ("random_seed", "rng_seed"),
    "score": ("bpb", "final_bpb", "best_val_bpb", "test_bpb", "bits_per_byte"),
    SCORE_FROM_LOSS: ("loss", "eval_loss", "valid_loss", "validation_loss", "best_val_loss", "test_loss"),
    "steps": ("iter", "iters", "iteration", "iterations", "global_step", "num_steps", "max_steps", "total_steps"),
    "tokens": ("num_tokens", "train_tokens", "tokens_processed"),
    "tokens*1e9": ("tokens_b", "tokens_billion", "tokens_billions"),
    "tokens*1e6": ("tokens_m", "tokens_million", "tokens_millions"),
    "seconds": ("train_time", "train_time_s", "training_time", "elapsed"),
    "seconds/1000": ("train_time_ms", "elapsed_ms"),
    "parameters": ("num_params", "n_params", "param_count"),
    "name": ("run", "experiment", "exp_name"),
}  # fmt: skip
_BY_NAME = {name: target for target, names in _USUAL.items() for name in names}


def proposals(columns: Collection[str], used: Mapping[str, str]) -> dict[str, str]:
    """What to map some of these columns to, by column; no target twice, and none that another column has.

    Args:
        used: column by target.
    """
    taken = {target for target, column in used.items() if column not in columns}
    found: dict[str, str] = {}
    for column in columns:
        target = _proposal(column)
        plain = target.partition("*")[0].partition("/")[0]
        if target and plain not in taken:
            found[column] = target
            taken.add(plain)
    if "score" not in taken and "val_loss" in used:
        found[used["val_loss"]] = SCORE_FROM_LOSS
    return found


def _proposal(column: str) -> str:
    bare = strip(column).lower().replace("/", ".")
    for name in (bare.replace(".", "_"), bare.rpartition(".")[2]):
        if target := _BY_NAME.get(name) or known_paths().get(name):
            return target
        if role := next((role for role, names in ROLES.items() if name in names), None):
            return role
    return ""


def words(proposed: Mapping[str, str]) -> str:
    """The options to add, ready to paste, and what stands for a number in them; empty for none."""
    options = " ".join(f"--map {shlex.quote(f'{column}={target}')}" for column, target in proposed.items())
    legend = [said for name, said in WORDS.items() if name in options]
    return "; ".join([options, *legend]) if options else ""


def unread(used: Mapping[str, str]) -> list[str]:
    """Columns that are searched as knobs of the script's own under a name that no law reads.

    Args:
        used: column by target.
    """
    read = {name for names in ALIASES.values() for name in names}
    return [
        column for target, column in used.items()
        if target.startswith(KNOB) and target.removeprefix(KNOB).lower() not in read
    ]  # fmt: skip


def lacking(runs: Sequence[Run]) -> list[str]:
    """What laws need, and none of the runs has; what to say for it."""
    if not runs:
        return []
    wanted = []
    shaped = any({path.removeprefix("model.") for path in run.values} >= WHOLE for run in runs)
    if not shaped and not any(run.parameters for run in runs):
        wanted.append("the number of parameters (parameters)")
    if not any(run.tokens for run in runs):
        wanted.append("the tokens trained on (tokens, or steps with data.batch_tokens)")
    elif not any(run.step for run in runs):
        wanted.append("the steps (steps, or data.batch_tokens)")
    if not wanted:
        return []
    how = "by --map COLUMN=PATH from a column, or by --set PATH=VALUE where it is the same for all"
    return [f"no law can be fitted before the runs say {' and '.join(wanted)}: {how}"]
