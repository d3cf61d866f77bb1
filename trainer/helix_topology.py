"""Which nodes of a HelixLM graph feed which: drawn from a seed, or written down.  Standard library only.

The published wiring was drawn by numpy's legacy generator; this is the same stream of numbers, to the bit.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from trainer.helix_config import HelixConfig

Kind = Literal["linear", "full", "swiglu", "gate"]
KINDS_A_COLUMN = 3
"""Attention, SwiGLU and gate, in this order."""
LARGEST_SEED = 2**32 - 1
WORDS = 624
"""Of the generator's state (Matsumoto and Nishimura 1998, MT19937)."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The graph: nodes by number, column after column; edges lead from lower numbers to higher ones."""

    kinds: tuple[Kind, ...]
    predecessors: tuple[tuple[int, ...], ...]
    """Of each node, in the order in which they are merged."""
    bypassed: tuple[int, ...]
    """Nodes that hand on the graph's input in place of running."""
    gate_logits: dict[int, int]
    """How many logits each gate has."""

    @property
    def edges(self) -> str:
        """Such as `0>1 1>2`: from>to, in the order of the nodes and of their merges."""
        return " ".join(f"{a}>{b}" for b, sources in enumerate(self.predecessors) for a in sources)

    @property
    def hash(self) -> str:
        """SHA-256 of `edges`, in hexadecimal."""
        return hashlib.sha256(self.edges.encode()).hexdigest()

    @property
    def sinks(self) -> tuple[int, ...]:
        """The nodes whose mean is the graph's output: those of the last column."""
        return tuple(range(len(self.kinds) - KINDS_A_COLUMN, len(self.kinds)))

    def inputs(self, node: int) -> tuple[int, ...]:
        """The predecessors that a node reads: a gate with too few logits drops the last ones."""
        return self.predecessors[node][: self.gate_logits.get(node)]

    @property
    def running(self) -> tuple[int, ...]:
        """The nodes that must run, ascending: neither bypassed nor without a way to a sink."""
        wanted: set[int] = set()
        for node in reversed(range(len(self.kinds))):
            if node in self.sinks or node in wanted:
                wanted |= {node, *self.inputs(node)}
        return tuple(sorted(wanted - set(self.bypassed)))


@lru_cache(maxsize=64)
def topology_of(config: HelixConfig, seed: int) -> Topology:
    """The graph that `config` draws with this seed, 0 to 2³² - 1."""
    kinds: list[Kind] = []
    for column in range(config.num_columns):
        kinds += [config.attention_of(column), "swiglu", "gate"]
    predecessors = _draw(config, _Legacy(seed))
    others = KINDS_A_COLUMN - 1
    return Topology(
        kinds=tuple(kinds),
        predecessors=predecessors,
        bypassed=tuple(node for node, sources in enumerate(predecessors) if config.root_bypass and not sources),
        gate_logits={
            node: max(1, len(predecessors[node])) if config.gate_fix else others
            for node, kind in enumerate(kinds)
            if kind == "gate"
        },
    )


def _draw(config: HelixConfig, draws: _Legacy) -> tuple[tuple[int, ...], ...]:
    """Predecessors node by node: from earlier columns, then from earlier nodes of the column, then, where there are
    none and a column stands before it, one at random from there."""
    drawn: list[tuple[int, ...]] = []
    for column in range(config.num_columns):
        first = KINDS_A_COLUMN * column
        for node in range(first, first + KINDS_A_COLUMN):
            sources: list[int] = []
            for earlier in range(max(0, column - config.vertical_depth), column):
                if draws.uniform() < config.vertical_p:
                    count = 1 + draws.integer(KINDS_A_COLUMN - 1)
                    sources += [KINDS_A_COLUMN * earlier + index for index in draws.permutation()[:count]]
            sources += [beside for beside in range(first, node) if draws.uniform() < config.lateral_p]
            if not sources and column:
                sources = [first - KINDS_A_COLUMN + draws.integer(KINDS_A_COLUMN - 1)]
            drawn.append(tuple(sources))
    return tuple(drawn)


class _Legacy:
    """Draws of `numpy.random.RandomState(seed)`: rand, randint and permutation."""

    def __init__(self, seed: int) -> None:
        words = [seed]
        for place in range(1, WORDS):
            words.append((1_812_433_253 * (words[-1] ^ words[-1] >> 30) + place) & 0xFFFFFFFF)
        self._twister = random.Random()
        self._twister.setstate((3, (*words, WORDS), None))

    def uniform(self) -> float:
        """In [0, 1), of 53 bits."""
        return self._twister.random()

    def integer(self, most: int) -> int:
        """From 0 to `most`, both included: 32 bits are masked, and drawn again while too large."""
        mask = (1 << most.bit_length()) - 1
        while (value := self._twister.getrandbits(32) & mask) > most:
            pass
        return value

    def permutation(self) -> list[int]:
        """The places of a column in random order."""
        order = list(range(KINDS_A_COLUMN))
        for place in range(KINDS_A_COLUMN - 1, 0, -1):
            other = self.integer(place)
            order[place], order[other] = order[other], order[place]
        return order
