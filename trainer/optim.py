"""Which parameter goes to which optimiser, and the assertion that each goes to exactly one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.config import OptimConfig
from trainer.distributed import ALONE, Group
from trainer.models.base import Groups, LanguageModel
from trainer.muon import Muon


def partition(model: LanguageModel) -> Groups:
    """The parameters by group, as the model says."""
    groups = model.groups()
    placed = [id(parameter) for group in groups.values() for parameter in group]
    assert len(placed) == len(set(placed)) and set(placed) == {id(p) for p in model.parameters()}
    return groups


class Optimizers:
    """Muon or AdamW for the matrices inside, AdamW for the rest, one schedule over both."""

    def __init__(self, model: LanguageModel, config: OptimConfig, group: Group = ALONE) -> None:
        groups = partition(model)
        self._config = config
        adam_groups: list[dict[str, Any]] = [
            {"params": groups["embedding"], "lr": config.embed_lr, "weight_decay": config.adam_weight_decay},
            {"params": groups["scalar"], "lr": config.scalar_lr, "weight_decay": config.scalar_weight_decay},
            {"params": groups["head"], "lr": config.head_lr, "weight_decay": config.adam_weight_decay},
        ]
        self._muon: Muon | None = None
        if config.matrix_optimizer == "muon":
            self._muon = _muon(groups["matrix"], config, group)
        else:
            matrices = groups["matrix"]
            adam_groups.append({"params": matrices, "lr": config.matrix_lr, "weight_decay": config.matrix_weight_decay})
        self._adam = torch.optim.AdamW(
            [group for group in adam_groups if group["params"]],
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=groups["embedding"][0].device.type in ("cuda", "cpu"),
        )
        for settings in self._settings:
            settings["peak_lr"] = settings["lr"]
        self._parameters = [p for group in groups.values() for p in group]

    def step(self, *, lr_factor: float, momentum: float) -> None:
        """Clip, update every parameter at `lr_factor` of its peak rate, and clear the gradients."""
        if self._config.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._config.grad_clip, foreach=True)
        for settings in self._settings:
            settings["lr"] = settings["peak_lr"] * lr_factor
        if self._muon is not None:
            for settings in self._muon.param_groups:
                settings["momentum"] = momentum
            self._muon.step()
        self._adam.step()
        self.clear_gradients()

    @property
    def _settings(self) -> list[dict[str, Any]]:
        return [*(self._muon.param_groups if self._muon is not None else ()), *self._adam.param_groups]

    def clear_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def keep(self) -> Callable[[], None]:
        """Remember all moments on the device; what it returns puts them back, in the memory that they have now."""
        both = [self._adam] if self._muon is None else [self._adam, self._muon]
        kept = [
            {owner: {name: moment.clone() for name, moment in moments.items()} for owner, moments in one.state.items()}
            for one in both
        ]

        @torch.no_grad()
        def put_back() -> None:
            for one, moments in zip(both, kept, strict=True):
                for parameter in one.state.keys() - moments.keys():  # those begun meanwhile
                    del one.state[parameter]
                for parameter, state in moments.items():
                    for name, moment in state.items():
                        one.state[parameter][name].copy_(moment)

        return put_back

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"muon": self._muon.state_dict() if self._muon else {}, "adam": self._adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        if self._muon is not None:
            self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])


def _muon(matrices: list[Tensor], config: OptimConfig, group: Group) -> Muon:
    return Muon(
        matrices,
        lr=config.matrix_lr,
        momentum=config.momentum,
        weight_decay=config.matrix_weight_decay,
        newton_schulz_steps=config.newton_schulz_steps,
        newton_schulz=config.newton_schulz,
        group=group,
    )
