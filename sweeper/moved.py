"""A trial's config with a proposal's values in their place: rates, decays, batch, beta2, and what is tied to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sweeper.space import Space
from trainer.config import OptimConfig

RATES = tuple(f"optim.{group}_lr" for group in ("matrix", "scalar", "embed", "head"))
"""Of the groups of weights, which move together."""
DECAYS = tuple(f"optim.{group}_weight_decay" for group in ("matrix", "adam", "scalar"))
PATHS = (*RATES, *DECAYS, "optim.beta2", "data.batch_tokens")
"""What a law gives a full run; all else is the trial's."""

Values = dict[str, Any]


class Destination(Protocol):
    """What a law gives a longer run; see Proposal."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def batch_tokens(self) -> int: ...
    @property
    def beta2(self) -> float: ...
    @property
    def tokens(self) -> int: ...


def moved(
    config: Mapping[str, Any], params: Mapping[str, Any], optim: OptimConfig, to: Destination, space: Space
) -> tuple[Values, Values]:
    """The config and the searched values of a full run by `to`.

    The rates of all groups move by one factor, and the decays by another, so that their timescales keep their ratios.
    A decay of 0 stays 0, unless it is tied to one that does not.

    Args:
        config: of the trial, nested.
        params: its searched values by path.
        optim: of the trial, with the defaults that its config may leave out.
    """
    new = _moved(optim, to)
    for path, axis in space.items():
        for follower, ratio in axis.tie.items() if path in new else ():
            product = new[path] * ratio
            new[follower] = int(product) if isinstance(new[path], int) and product == int(product) else product
    nested = {key: dict(part) if isinstance(part, Mapping) else part for key, part in config.items()}
    for path, value in new.items():
        section, _, key = path.partition(".")
        nested.setdefault(section, {})[key] = value
    return nested, {path: new.get(path, value) for path, value in params.items()}


def _moved(optim: OptimConfig, to: Destination) -> Values:
    """By path, ties left aside."""
    own = {path: getattr(optim, path.removeprefix("optim.")) for path in (*RATES, *DECAYS)}
    rate, decay = to.learning_rate / optim.matrix_lr, optim.matrix_weight_decay
    new: Values = {path: own[path] * rate for path in RATES}
    new |= {path: own[path] * to.weight_decay / decay for path in DECAYS if decay}
    new |= {"optim.matrix_lr": to.learning_rate, "optim.matrix_weight_decay": to.weight_decay}
    return new | {"optim.beta2": to.beta2, "data.batch_tokens": to.batch_tokens}
