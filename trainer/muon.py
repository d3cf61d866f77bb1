"""Muon: momentum, then orthogonalise.  Shape key: N matrices of one shape, R rows, C columns.

The method is Keller Jordan's (https://kellerjordan.github.io/posts/muon, 2024); matrices of one shape go through
the iteration as one stack, which on a GPU costs a tenth of one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices_NRC: Tensor, steps: int) -> Tensor:
    """Push every singular value towards 1 by `steps` quintic Newton-Schulz iterations.

    Each iteration maps a singular value s of the Frobenius-normalised matrix to a·s + b·s³ + c·s⁵. The
    coefficients buy speed near 0 at the price of never settling: five steps leave values that began above
    0.01 within about [0.68, 1.21], and that is all the optimiser needs.

    Args:
        matrices_NRC: (N, R, C) matrices, in the dtype to iterate in.
        steps: number of iterations.

    Returns:
        (N, R, C) of the same dtype.
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    tall = matrices_NRC.size(-2) > matrices_NRC.size(-1)
    x = matrices_NRC.mT if tall else matrices_NRC
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
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
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        newton_schulz_steps: int,
    ) -> None:
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
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_stack(parameters, group)

    def _step_stack(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in parameters]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        directions = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
        dtype = torch.bfloat16 if parameters[0].is_cuda else torch.float32
        updates_NRC = orthogonalize(torch.stack(directions).to(dtype), group["newton_schulz_steps"])
        rows, columns = parameters[0].shape
        step_size = group["lr"] * max(1.0, rows / columns) ** 0.5
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
        updates = list(updates_NRC.to(parameters[0].dtype).unbind())
        torch._foreach_add_(parameters, updates, alpha=-step_size)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer
