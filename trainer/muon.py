"""Muon: momentum, then orthogonalise.  Shape key: N matrices of one shape, R rows, C columns.

The method is Keller Jordan's (https://kellerjordan.github.io/posts/muon, 2024); matrices of one shape go through
the iteration as one stack, which on a GPU costs a tenth of one by one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trainer.distributed import ALONE, Group

Quintic = tuple[float, float, float]
"""a, b, c of s -> a·s + b·s³ + c·s⁵."""
SLACK = 1.01
"""By which the Polar Express divides singular values before every iteration but the last of its table, as rounding may
have lifted them over the bound that the next quintic was made for (section 3.4 there)."""


def _slackened(quintic: Quintic) -> Quintic:
    a, b, c = quintic
    return a / SLACK, b / SLACK**3, c / SLACK**5


COEFFICIENTS: dict[str, tuple[Quintic, ...]] = {
    "keller": ((3.4445, -4.7750, 2.0315),),
    "polar_express": (
        *map(
            _slackened,
            (
                (8.28721201814563, -23.595886519098837, 17.300387312530933),
                (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
                (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
                (3.3184196573706015, -2.488488024314874, 0.51004894012372),
                (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
                (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
                (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
            ),
        ),
        (1.875, -1.25, 0.375),
    ),
}
"""Of each iteration; the last serves all that follow. The Polar Express: Amsel, Persson, Musco and Gower 2025
(arXiv:2505.16932), algorithm 1, quintics that are optimal for singular values from 0.001 to 1."""


def quintics(coefficients: str, steps: int) -> list[Quintic]:
    """Of `steps` iterations with the `coefficients` of that name."""
    table = COEFFICIENTS[coefficients]
    return [table[min(step, len(table) - 1)] for step in range(steps)]


def orthogonalize(matrices_NRC: Tensor, steps: int, coefficients: str = "keller") -> Tensor:
    """Push every singular value towards 1 by `steps` quintic Newton-Schulz iterations.

    Each iteration maps a singular value s of the Frobenius-normalised matrix to a·s + b·s³ + c·s⁵. `keller` buys
    speed near 0 at the price of never settling: five steps leave values that began above 0.01 within about
    [0.68, 1.21], and that is all the optimiser needs. Five of `polar_express` leave those that began above 0.001
    within about [0.84, 1.13], eight within 1e-6 of 1 where the dtype can tell.

    Args:
        matrices_NRC: (N, R, C) matrices, in the dtype to iterate in.
        steps: number of iterations.
        coefficients: a key of COEFFICIENTS.

    Returns:
        (N, R, C) of the same dtype.
    """
    tall = matrices_NRC.size(-2) > matrices_NRC.size(-1)
    x = matrices_NRC.mT if tall else matrices_NRC
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in quintics(coefficients, steps):
        gram = x @ x.mT
        # The sums ride along in the products: a·x + (b·gram + c·gram²) x
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    result: Tensor = x.mT if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled by sqrt(max(1, rows / columns)); decoupled weight decay.

    Args:
        parameters: 2-D weights.
        lr: step size; a group's `lr`, `momentum` and `weight_decay` may be set between steps.
        momentum: of the gradient average.
        weight_decay: weights are multiplied by 1 - lr * weight_decay before each step.
        newton_schulz_steps: iterations of `orthogonalize`, in bfloat16 on CUDA, float32 elsewhere.
        newton_schulz: their coefficients.
        group: whose ranks share the iterations. They all keep all of the momentum: it costs far less.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        newton_schulz_steps: int,
        newton_schulz: str = "keller",
        group: Group = ALONE,
    ) -> None:
        self._group = group
        self._coefficients = newton_schulz
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "newton_schulz_steps": newton_schulz_steps,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure, so no loss to return
        assert closure is None, "Muon takes no closure"
        for settings in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in settings["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            stacks = list(by_shape.values())
            shares = [self._orthogonal_share(parameters, settings) for parameters in stacks]
            for parameters, updates in zip(stacks, self._group.gather(shares), strict=True):
                self._apply(parameters, updates.flatten(0, 1)[: len(parameters)], settings)

    def _orthogonal_share(self, parameters: list[Tensor], settings: dict[str, Any]) -> Tensor:
        """Take the gradients of N matrices into their momentum; (n, R, C), what this rank orthogonalises of them.

        n is N over the ranks, rounded up. Who would come out short repeats the last matrix: its update, past the end
        of the gathered ones, is cut off.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in parameters]
        torch._foreach_mul_(buffers, settings["momentum"])
        torch._foreach_add_(buffers, gradients)
        directions = torch._foreach_add(gradients, buffers, alpha=settings["momentum"])
        count = math.ceil(len(directions) / self._group.size)
        begin = self._group.rank * count
        mine = [directions[min(index, len(directions) - 1)] for index in range(begin, begin + count)]
        dtype = torch.bfloat16 if parameters[0].is_cuda else torch.float32
        return orthogonalize(torch.stack(mine).to(dtype), settings["newton_schulz_steps"], self._coefficients)

    def _apply(self, parameters: list[Tensor], updates_NRC: Tensor, settings: dict[str, Any]) -> None:
        rows, columns = parameters[0].shape
        step_size = settings["lr"] * max(1.0, rows / columns) ** 0.5
        if settings["weight_decay"]:
            torch._foreach_mul_(parameters, 1.0 - settings["lr"] * settings["weight_decay"])
        updates = list(updates_NRC.to(parameters[0].dtype).unbind())
        torch._foreach_add_(parameters, updates, alpha=-step_size)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer
