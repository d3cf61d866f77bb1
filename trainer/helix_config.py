"""What a model of the HelixLM family is: sizes, switches, initial values, checked where they are built.

Standard library only.  Defaults are those of the published plan (david-thrower/HelixLM, issue 38); docs/options.md
lists what the switches compute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trainer.values import require

AttentionKind = Literal["linear", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HelixConfig:
    """A graph of attention, SwiGLU and gate nodes, run `num_loops` times with the same weights."""

    d_model: int = 1024
    """Width of every node."""
    num_columns: int = 2
    """Columns of the graph; each is an attention node, a SwiGLU and a gate. The mean over the last one goes on."""
    num_heads: int = 16
    """Heads of the attention nodes, a divisor of d_model."""
    num_loops: int = 4
    """How often the graph runs, with the same weights."""
    ffn_multiple: float = 2.7
    """Hidden units of a SwiGLU as a multiple of d_model, rounded down."""
    attention: Literal["linear", "full", "hybrid"] = "hybrid"
    """hybrid is full in column 0 and every `full_attention_interval`-th one after it, linear in the others. With
    `root_bypass` the attention of column 0 never runs, so hybrid with few columns computes what linear does."""
    full_attention_interval: int = 4
    """See `attention`; without meaning where that is not hybrid."""
    linear_feature_dim: int = 64
    """Features of a head's queries and keys in linear attention."""
    loop_dim_ratio: float = 0.125
    """Share of the channels that tell which loop it is, by sines and cosines of amplitude 1; 0 is none."""
    act: Literal["as_built", "off", "remainder"] = "as_built"
    """How the states after each loop are weighted for the output. as_built: adaptive halting (Graves 2016,
    arXiv:1603.08983), where the weights of a token that never reaches `act_threshold` sum to less than 1. remainder:
    the last loop takes what is left to 1. off: the last state alone."""
    act_threshold: float = 0.99
    """Sum of halting probabilities at which a token halts; without meaning where act is off."""
    rope: bool = False
    """Whether queries and keys are rotated by position, ahead of the features in linear attention. As built, nothing
    is: order enters through the causal mask alone."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies; without meaning when rope is off."""
    root_bypass: bool = True
    """Whether nodes without predecessors hand on the graph's input and never run, as built."""
    z_norm: Literal["key_sum", "standard"] = "key_sum"
    """What linear attention divides by. key_sum, as built: the sum of all features of all keys so far. standard: the
    sum of the products of the query's features with theirs (Katharopoulos et al. 2020, arXiv:2006.16236)."""
    merge_norm: bool = False
    """Whether an RMSNorm follows each merge of several predecessors."""
    gate_fix: bool = False
    """Whether a gate has a logit for each of its predecessors. As built it has one for each other node of its column,
    and drops predecessors beyond these."""
    lateral_p: float = 0.8
    """Chance of an edge from each earlier node of the same column."""
    vertical_p: float = 0.9
    """Chance of edges from each earlier column within `vertical_depth`."""
    vertical_depth: int = 2
    """How many columns back edges reach."""
    lti_init_a: float = math.exp(-1)
    """First value of the decay A in state ← A·state + B·embedding + graph, in (0, 1); as built 1/e."""
    embedding_scale: bool = False
    """Whether embeddings are multiplied by sqrt(d_model) on their way in. As built they are not, and at first the
    loop's sines drown them."""
    dropout: float = 0.1
    """Share of each node's output channels that a training pass drops, and of the weights of softmax attention."""
    titans_memory: bool = False
    """Not to be had: it reads its final memory at every position, and so sees the future."""
    ssm: bool = False
    """Not to be had: not implemented."""

    def __post_init__(self) -> None:
        self._check_absent()
        self._check_sizes()
        for name in ("loop_dim_ratio", "lateral_p", "vertical_p"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"helix.{name} must be in [0, 1], got {value}")
        require(0 <= self.dropout < 1, f"helix.dropout must be in [0, 1), got {self.dropout}")
        require(0 < self.act_threshold <= 1, f"helix.act_threshold must be in (0, 1], got {self.act_threshold}")
        require(0 < self.lti_init_a < 1, f"helix.lti_init_a must be in (0, 1), got {self.lti_init_a}")
        require(self.rope_base > 0, f"helix.rope_base must be positive, got {self.rope_base}")

    def _check_absent(self) -> None:
        require(
            not self.titans_memory,
            "helix.titans_memory is true, but that node reads its final memory at every position and so sees the "
            "tokens it should predict: its losses mean nothing; leave it false",
        )
        require(not self.ssm, "helix.ssm is true, but state space nodes are not implemented; leave it false")

    def _check_sizes(self) -> None:
        names = ("d_model", "num_columns", "num_heads", "num_loops", "full_attention_interval", "linear_feature_dim")
        for name in (*names, "vertical_depth"):
            value = getattr(self, name)
            require(value >= 1, f"helix.{name} must be at least 1, got {value}")
        require(
            self.d_model % self.num_heads == 0,
            f"helix.d_model ({self.d_model}) must be a multiple of helix.num_heads ({self.num_heads})",
        )
        require(
            self.hidden >= 1,
            f"helix.ffn_multiple × helix.d_model must be at least 1, got {self.ffn_multiple} × {self.d_model}",
        )
        require(
            not self.rope or self.head_dim % 2 == 0,
            f"helix.rope needs an even head width, got d_model / num_heads = {self.d_model} / {self.num_heads}",
        )

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.d_model // self.num_heads

    @property
    def hidden(self) -> int:
        """Hidden units of a SwiGLU."""
        return int(self.d_model * self.ffn_multiple)

    @property
    def loop_dim(self) -> int:
        """Channels that tell which loop it is: half of them sines, half cosines."""
        return int(self.d_model * self.loop_dim_ratio)

    def attention_of(self, column: int) -> AttentionKind:
        """The kind of the attention node in a column."""
        if self.attention == "hybrid":
            return "linear" if column % self.full_attention_interval else "full"
        return self.attention
