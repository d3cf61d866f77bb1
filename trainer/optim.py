"""Which parameter goes to which optimiser, and the assertion that each goes to exactly one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.config import OptimConfig
from trainer.distributed import ALONE, Group
from trainer.models.gpt import GPT
from trainer.muon import Muon


def partition(model: GPT) -> dict[str, list[Tensor]]:
    """The parameters by group: embedding (tokens, pairs of tokens), matrix, scalar, head (empty when tied)."""
    inside = [parameter for block in model.blocks for parameter in block.named_parameters()]
    stem = [] if model.stem is None else list(model.stem.named_parameters())
    tables = [p for name, p in stem if name == "bigram.table.weight"]
    inside += [(name, p) for name, p in stem if name != "bigram.table.weight"]
    groups: dict[str, list[Tensor]] = {
        "embedding": [model.embedding.weight, *tables],
        "matrix": [p for name, p in inside if _is_matrix(name, p)],
        "scalar": [model.skip_weights, *(p for name, p in inside if not _is_matrix(name, p))],
        "head": [] if model.lm_head is None else [model.lm_head.weight],
    }
    placed = [id(parameter) for group in groups.values() for parameter in group]
    assert len(placed) == len(set(placed)) and set(placed) == {id(p) for p in model.parameters()}
    return groups


def _is_matrix(name: str, parameter: Tensor) -> bool:
    # These are (2, D) and (2, 3): scales of two streams each, no matrices to orthogonalise.
    return parameter.ndim == 2 and name not in ("resid_mix", "lane_mix")


class Optimizers:
    """Muon for the matrices of the blocks, AdamW for the rest, one schedule over both."""

    def __init__(self, model: GPT, config: OptimConfig, group: Group = ALONE) -> None:
        groups = partition(model)
        self._config = config
        self._muon = Muon(
            groups["matrix"],
            lr=config.matrix_lr,
            momentum=config.momentum,
            weight_decay=config.matrix_weight_decay,
            newton_schulz_steps=config.newton_schulz_steps,
            newton_schulz=config.newton_schulz,
            group=group,
        )
        adam_groups: list[dict[str, Any]] = [
            {"params": groups["embedding"], "lr": config.embed_lr, "weight_decay": config.adam_weight_decay},
            {"params": groups["scalar"], "lr": config.scalar_lr, "weight_decay": 0.0},
            {"params": groups["head"], "lr": config.head_lr, "weight_decay": config.adam_weight_decay},
        ]
        self._adam = torch.optim.AdamW(
            [group for group in adam_groups if group["params"]],
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=groups["embedding"][0].device.type in ("cuda", "cpu"),
        )
        for settings in (*self._muon.param_groups, *self._adam.param_groups):
            settings["peak_lr"] = settings["lr"]
        self._parameters = [p for group in groups.values() for p in group]

    def step(self, *, lr_factor: float, momentum: float) -> None:
        """Clip, update every parameter at `lr_factor` of its peak rate, and clear the gradients."""
        if self._config.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._config.grad_clip, foreach=True)
        for settings in (*self._muon.param_groups, *self._adam.param_groups):
            settings["lr"] = settings["peak_lr"] * lr_factor
        for settings in self._muon.param_groups:
            settings["momentum"] = momentum
        self._muon.step()
        self._adam.step()
        self.clear_gradients()

    def clear_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])
