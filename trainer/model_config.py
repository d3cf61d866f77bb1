"""What a model is: sizes, initial values and options, checked where they are built.  Standard library only.

The options are off by default; docs/options.md lists them with what they cost and bring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.values import require


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The GPT of the parameter-golf baseline: 17,059,912 parameters at its defaults."""

    family: Literal["gpt", "helix"] = "gpt"
    """gpt is what the rest of this section describes; of it helix takes vocab_size alone, and the section helix."""
    vocab_size: int = 1024
    """Rows of the token embedding; at least the tokeniser's count of tokens."""
    num_layers: int = 9
    """Blocks. The first half push U-Net skips, the second half pop them."""
    model_dim: int = 512
    """Width of the residual stream."""
    num_heads: int = 8
    """Query heads; model_dim / num_heads is the head width and must be even (RoPE)."""
    num_kv_heads: int = 4
    """Key and value heads, a divisor of num_heads (grouped-query attention)."""
    mlp_mult: float = 2
    """Hidden width of the MLP as a multiple of model_dim; the product must be a whole number."""
    mlp_activation: Literal["relu2", "leaky_relu2", "swiglu"] = "relu2"
    """Of the hidden units h: relu2 is max(h, 0)²; leaky_relu2 is max(h, h/2)² (parameter-golf, 2026-03-23);
    swiglu is silu(gate)·h (Shazeer 2020, arXiv:2002.05202), with a third matrix. So that the MLP keeps its count of
    parameters, swiglu takes two thirds of the hidden units, rounded down to a multiple of 8: never more parameters
    than the other two, and at most 24 · model_dim fewer."""
    tie_embeddings: bool = True
    """Whether the output head is the embedding matrix. Untied, the head begins at zero and has optim.head_lr for its
    rate; the baseline then takes 0.6 for optim.embed_lr."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_dims: int = 0
    """Channels of each head that rotate, the first ones; 0 is all. The others carry no position. Channel i turns by
    position · rope_base^(-2i / rope_dims) together with channel i + rope_dims / 2 (parameter-golf, 2026-03-21)."""
    logit_softcap: float = 30.0
    """Logits become cap * tanh(z / cap)."""
    qk_gain_init: float = 1.5
    """Initial value of the learned gain of each query head."""
    embed_init_std: float = 0.005
    """Standard deviation of the embedding at initialisation when it is tied; untied uses 1."""
    embed_init: Literal["normal", "overtone"] = "normal"
    """overtone gives the embedding that was drawn a power-law spectrum: its k-th singular value becomes that of the
    largest times k^(-1/2), its singular vectors stay (parameter-golf, 2026-03-19)."""
    linear_init: Literal["uniform", "orthogonal", "orthogonal_projections"] = "uniform"
    """Of the linear weights: uniform is PyTorch's own; orthogonal has all singular values 1, for weights of at least
    64 × 64. Projections into the stream, and an untied head, begin at zero under both. orthogonal_projections makes
    the former orthogonal as well, times 1 / sqrt(2 · num_layers): what the published code intends, but its zeros
    win (parameter-golf, 2026-03-19)."""
    resid_mix_init: Literal["stream", "phase"] = "stream"
    """Of the mix a·x + b·x0 that each block begins with: stream is a = 1, b = 0; phase is b = 1 - a and
    a = sigmoid(3 · (i / (num_layers - 1) - 1/2)) in block i, so that early blocks lean on the embedding x0
    (parameter-golf, 2026-03-19)."""
    bigram_buckets: int = 0
    """Rows of a hashed table of token pairs; 0 is none. Row (36313·token XOR 27191·previous) mod (buckets - 1), the
    last row at position 0, goes through a projection and a learned scale (0.05 at first) and is added to the token
    embedding ahead of the first norm (BigramHash, parameter-golf, 2026-03-20). The table begins at zero and the
    projection does not: with both at zero, as published, neither would ever learn."""
    bigram_dim: int = 128
    """Width of that table; without meaning when there is none."""
    smear_gate: bool = False
    """Whether each token takes in the one before, after the first norm: (1 - g)·x_t + g·x_(t-1) with a learned gate g
    for each channel, 1/2 at first (SmearGate, parameter-golf, 2026-03-20). The first token of a sequence or of a
    document stays whole: x_t."""
    separator_id: int = -1
    """Token that stands ahead of each document, which smear_gate must not mix across; -1 is none."""
    xsa_last_layers: int = 0
    """In this many last blocks, each head's output y loses what lies along its token's own value v:
    y - (y·v / |v|²) v (exclusive self-attention, parameter-golf, 2026-03-20); more than there are means all."""
    layer_norm_scale: bool = False
    """Whether block i multiplies the normed inputs of attention and MLP by 1 / sqrt(i + 1), i from 0
    (parameter-golf, 2026-03-21)."""
    loop_first: int = 0
    """First block of a range that runs several times with the same weights (depth recurrence, parameter-golf,
    2026-04), counted from 0."""
    loop_blocks: int = 0
    """Blocks in that range; 0 is none."""
    loop_times: int = 2
    """How often the range runs. U-Net skips go by the unrolled order: of all passes through a block the first half
    push, the second half pop, and each pop has skip weights of its own."""
    parallel_last_layers: int = 0
    """This many last blocks (more than there are means all) run attention and MLP side by side on two lanes p and q,
    equal at first: A = attention(norm(a·p + b·x0)) and M = mlp(norm(q)), then p' = l₀p + l₁A + l₂M and
    q' = l₃q + l₄A + l₅M, with l learned, 1 at first. Skips enter p alone; the lanes' mean goes on (parameter-golf,
    pull request 1529)."""
    label_smoothing: float = 0.0
    """Share of the training loss that is the mean over the whole vocabulary in place of the target, in [0, 1)
    (Szegedy et al. 2015, arXiv:1512.00567). Validation losses are never smoothed, so the two are no longer alike."""

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_embedding()
        self._check_blocks()
        for name in ("rope_base", "logit_softcap"):
            value = getattr(self, name)
            require(value > 0, f"model.{name} must be positive, got {value}")
        require(
            0 <= self.label_smoothing < 1,
            f"model.label_smoothing must be in [0, 1), got {self.label_smoothing}; 0 turns it off",
        )

    def _check_sizes(self) -> None:
        for name in ("vocab_size", "num_layers", "model_dim", "num_heads", "num_kv_heads"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name} must be at least 1, got {value}")
        require(
            self.model_dim % self.num_heads == 0,
            f"model.model_dim ({self.model_dim}) must be a multiple of model.num_heads ({self.num_heads})",
        )
        require(
            self.head_dim % 2 == 0,
            f"the head width model_dim / num_heads must be even for RoPE, got {self.model_dim} / {self.num_heads}",
        )
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"model.num_heads ({self.num_heads}) must be a multiple of model.num_kv_heads ({self.num_kv_heads})",
        )
        hidden = self.mlp_mult * self.model_dim
        require(
            hidden >= 1 and float(hidden).is_integer(),
            f"model.mlp_mult × model.model_dim must be a whole number of hidden units, got {hidden}",
        )
        require(
            self.mlp_hidden >= 1,
            f"model.mlp_activation 'swiglu' has no unit left of {hidden:.0f} hidden ones, as it takes two thirds in "
            "multiples of 8; make model.mlp_mult × model.model_dim at least 12",
        )

    def _check_embedding(self) -> None:
        require(self.embed_init_std >= 0, f"model.embed_init_std must not be negative, got {self.embed_init_std}")
        require(
            self.bigram_buckets == 0 or self.bigram_buckets >= 2,
            f"model.bigram_buckets must be 0 (no table) or at least 2 (one is for position 0), got "
            f"{self.bigram_buckets}",
        )
        require(self.bigram_dim >= 1, f"model.bigram_dim must be at least 1, got {self.bigram_dim}")
        require(
            -1 <= self.separator_id < self.vocab_size,
            f"model.separator_id must be a token, 0 to {self.vocab_size - 1}, or -1 for none, got {self.separator_id}",
        )

    def _check_blocks(self) -> None:
        require(
            0 <= self.rope_dims <= self.head_dim and self.rope_dims % 2 == 0,
            f"model.rope_dims must be even and at most the head width {self.head_dim}, got {self.rope_dims}; "
            "0 rotates all channels",
        )
        for name in ("xsa_last_layers", "parallel_last_layers", "loop_first", "loop_blocks"):
            value = getattr(self, name)
            require(value >= 0, f"model.{name} must not be negative, got {value}")
        require(
            self.loop_times >= 1,
            f"model.loop_times must be at least 1, got {self.loop_times}; set model.loop_blocks to 0 for no loop",
        )
        beyond = self.loop_blocks > 0 and self.loop_first + self.loop_blocks > self.num_layers
        # Of a single block nothing can be wrong that matters, and runs are told apart by their config at depth 1.
        require(
            self.num_layers == 1 or not beyond,
            f"model.loop_first + model.loop_blocks must not exceed model.num_layers ({self.num_layers}), got "
            f"{self.loop_first} + {self.loop_blocks}; make the range shorter or the model deeper",
        )

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.model_dim // self.num_heads

    @property
    def rotary_dims(self) -> int:
        """Channels of a head that rotate."""
        return self.rope_dims or self.head_dim

    @property
    def mlp_hidden(self) -> int:
        """Hidden units of the MLP; see `mlp_activation`."""
        hidden = int(self.mlp_mult * self.model_dim)
        return 2 * hidden // 3 // 8 * 8 if self.mlp_activation == "swiglu" else hidden

    @property
    def block_order(self) -> tuple[int, ...]:
        """Which block runs when: each once, the blocks of the loop several times."""
        layers = tuple(range(self.num_layers))
        end = self.loop_first + self.loop_blocks
        return layers[: self.loop_first] + layers[self.loop_first : end] * self.loop_times + layers[end:]

    @property
    def block_kinds(self) -> frozenset[tuple[bool, bool, bool]]:
        """The kinds of passes through a block, each of which is compiled once: whether it pops a skip, whether its
        attention is exclusive, whether it has two lanes."""
        order, pushes = self.block_order, len(self.block_order) // 2
        exclusive, lanes = (self.num_layers - last for last in (self.xsa_last_layers, self.parallel_last_layers))
        return frozenset(
            (pushes <= position < 2 * pushes, layer >= exclusive, layer >= lanes)
            for position, layer in enumerate(order)
        )
