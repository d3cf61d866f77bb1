"""What columns that nobody mapped probably are: proposals for --map, never used by themselves.  Pure.

Their units are not known, or the name means different things to different people, so a person decides.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence

from sweeper.command import KNOB
from sweeper.importing.names import ROLES, known_paths, strip
from sweeper.importing.runs import RATES, Run
from sweeper.observations_recipe import ALIASES, WHOLE

SEQUENCE = "SEQ_LEN"
WORDS = {
    f"*{SEQUENCE}": f"{SEQUENCE} is the number of tokens in a sequence",
    "=val_loss": "val_loss is in nats per token, of which --bytes-per-token makes bits per byte",
}

_USUAL: dict[str, tuple[str, ...]] = {
    "optim.matrix_lr": (
        *("lr", "learning_rate", "max_lr", "peak_lr", "base_lr"),
        *("max_learning_rate", "peak_learning_rate"),
    ),
    "optim.matrix_weight_decay": ("wd", "weight_decay", "decay"),
    "optim.matrix_optimizer": ("optimizer", "optimizer_type", "optimizer_name", "opt"),
    f"data.batch_tokens*{SEQUENCE}": (
        *("batch_size", "batch", "bs", "global_batch_size", "total_batch_size", "train_batch_size"),
        *("batch_size_seqs", "batch_size_sequences", "batch_seqs"),
    ),
    "data.batch_tokens": ("batch_size_tokens", "bs_tokens", "tokens_per_step", "tokens_per_batch", "batch_tok"),
    "data.seq_len": ("block_size", "context", "context_length", "ctx_len", "seq_length", "sequence_length"),
    "model.num_layers": ("n_layer", "n_layers", "depth", "layers", "num_hidden_layers"),
    "model.model_dim": ("n_embd", "d_model", "hidden_size", "width", "dim"),
    "model.num_heads": ("n_head", "n_heads", "heads", "num_attention_heads"),
    "seeds.init": ("random_seed", "rng_seed"),
    "score": ("bpb", "final_bpb", "best_val_bpb", "test_bpb", "bits_per_byte"),
    "val_loss": (
        *("final_val_loss", "eval_loss", "valid_loss", "validation_loss", "best_val_loss", "test_loss"),
        *("smooth_loss", "final_loss", "loss"),
    ),
    "steps": (
        *("iter", "iters", "iteration", "iterations", "global_step", "num_steps", "max_steps", "total_steps"),
        *("num_train_steps", "train_steps", "training_steps", "n_steps"),
    ),
    "tokens": ("num_tokens", "n_tokens", "train_tokens", "training_tokens", "num_train_tokens", "tokens_processed"),
    "tokens*1e9": ("tokens_b", "tokens_billion", "tokens_billions"),
    "tokens*1e6": ("tokens_m", "tokens_million", "tokens_millions"),
    "seconds": ("train_time", "train_time_s", "training_time", "train_runtime", "elapsed"),
    "seconds/1000": ("train_time_ms", "elapsed_ms"),
    "parameters": ("num_params", "n_params", "params", "param_count", "num_parameters", "n_parameters", "model_size"),
    "parameters*1e6": ("params_m", "params_million", "params_millions", "parameters_m", "n_params_m"),
    "parameters*1e9": ("params_b", "params_billion", "params_billions", "parameters_b", "n_params_b"),
    "flops": (
        *("training_flop", "training_flops", "train_flops", "total_flops", "flop", "training_compute", "compute"),
        "compute_flops",
    ),
    "device_name": ("gpu_type", "gpu_name", "device", "accelerator"),
    "name": ("run", "experiment", "exp_name"),
}  # fmt: skip
_BY_NAME = {name: target for target, names in _USUAL.items() for name in names} | {"flops": "flops"}
_LETTERS = {"N": "parameters", "D": "tokens", "C": "flops"}
"""As the literature of scaling laws calls them; in lower case they are anything."""


def proposals(columns: Collection[str], used: Mapping[str, str]) -> dict[str, str]:
    """What to map some of these columns to, by column; no target twice, and none that another column has.

    Args:
        used: column by target.
    """
    taken = {target for target, column in used.items() if column not in columns}
    if "score" in taken:
        taken.add("val_loss")  # it has its score, and other losses say no more
    found: dict[str, str] = {}
    for column in sorted(columns, key=_believed):
        target = _proposal(column)
        plain = target.partition("*")[0].partition("/")[0]
        if target and plain not in taken:
            found[column] = target
            taken.add(plain)
    return {column: found[column] for column in columns if column in found}


def _believed(column: str) -> int:
    """Of several losses the one that is the validation's, or the final one, is taken; all else in its order."""
    name = _plain(column)
    return _USUAL["val_loss"].index(name) if name in _USUAL["val_loss"] else 0


def _plain(column: str) -> str:
    """`Training FLOP` as training_flop, `batch_size (seqs)` as batch_size_seqs."""
    return re.sub(r"[^a-z0-9]+", "_", strip(column).lower()).strip("_")


def _proposal(column: str) -> str:
    if column in _LETTERS:
        return _LETTERS[column]
    bare = strip(column).lower().replace("/", ".")
    for name in (_plain(column), bare.rpartition(".")[2]):
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
    how = "by --map COLUMN=PATH from a column, or by --set PATH=VALUE where it is the same for all"
    wanted, said = [], []
    shaped = any({path.removeprefix("model.") for path in run.values} >= WHOLE for run in runs)
    if not shaped and not any(run.parameters for run in runs):
        wanted.append("the number of parameters (parameters)")
    if not any(run.tokens for run in runs):
        wanted.append("the tokens trained on (tokens, or steps with data.batch_tokens)")
    elif not any(run.step for run in runs):
        said.append(f"no run says its batch or its steps, so there are no laws of the batch (data.batch_tokens): {how}")
    if not any(path.rpartition(".")[2].lower() in RATES for run in runs for path in run.values):
        said.append(f"no run says its learning rate, so there are no laws of rate and decay (optim.matrix_lr): {how}")
    return [*([f"no law can be fitted before the runs say {' and '.join(wanted)}: {how}"] if wanted else []), *said]
