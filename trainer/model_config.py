"""What a model is: sizes, initial values and options, checked where they are built.  Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.values import require


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The GPT of the parameter-golf baseline: 17,059,912 parameters at its defaults."""

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
    tie_embeddings: bool = True
    """Whether the output head is the embedding matrix."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies."""
    logit_softcap: float = 30.0
    """Logits become cap * tanh(z / cap)."""
    qk_gain_init: float = 1.5
    """Initial value of the learned gain of each query head."""
    embed_init_std: float = 0.005
    """Standard deviation of the embedding at initialisation when it is tied; untied uses 1."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "num_layers", "model_dim", "num_heads", "num_kv_heads"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name} must be at least 1, got {value}")
        require(
            self.model_dim % self.num_heads == 0,
            f"model.model_dim ({self.model_dim}) must be a multiple of model.num_heads ({self.num_heads})",
        )
        require(
            (self.model_dim // self.num_heads) % 2 == 0,
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
        for name in ("rope_base", "logit_softcap"):
            value = getattr(self, name)
            require(value > 0, f"model.{name} must be positive, got {value}")
        require(self.embed_init_std >= 0, f"model.embed_init_std must not be negative, got {self.embed_init_std}")
