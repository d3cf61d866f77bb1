"""The GPT of the parameter-golf baseline (openai/parameter-golf, train_gpt.py, 2026-03), written anew.

Shape key: B sequences, T tokens, D model width, V vocabulary.  At ModelConfig's defaults: 17,059,912 parameters.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.models.loss import WHOLE_VOCAB, ChunkedLoss, token_losses
from trainer.models.parts import Linear, causal_attention, rms_norm, rotary_tables, rotate

if torch.cuda.is_available():  # builds of torch without CUDA come without Triton
    from trainer.models import relu2_kernel, rotate_kernel


class Attention(nn.Module):
    """Grouped-query causal attention; q and k are RMS-normed per head, rotated, q scaled by a learned gain."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.model_dim // config.num_heads
        self.kernel = False
        kv_dim = config.num_kv_heads * self.head_dim
        self.q_proj = Linear(config.model_dim, config.model_dim)
        self.k_proj = Linear(config.model_dim, kv_dim)
        self.v_proj = Linear(config.model_dim, kv_dim)
        self.out_proj = Linear(config.model_dim, config.model_dim, zero=True)
        self.q_gain = nn.Parameter(torch.full((config.num_heads,), config.qk_gain_init))

    def forward(self, x_BTD: Tensor, scale: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        # One product for all three: apart, the narrow ones are bound by memory. Muon still sees them apart.
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)).to(x_BTD.dtype)
        if self.kernel:
            q, k, v = rotate_kernel.rotated_heads(x_BTD, weight, self.q_gain, cos, sin)
        else:
            q, k, v = self._heads(F.linear(x_BTD, weight), cos, sin)
        projected: Tensor = self.out_proj(causal_attention(q, k, v).flatten(2), scale)
        return projected

    def _heads(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = [projection.weight.size(0) // self.head_dim for projection in (self.q_proj, self.k_proj, self.v_proj)]
        q, k, v = torch.split(qkv.view(*qkv.shape[:2], -1, self.head_dim), heads, dim=2)
        q = rotate(rms_norm(q), cos, sin) * self.q_gain.to(q.dtype)[:, None]
        return q, rotate(rms_norm(k), cos, sin), v


class MLP(nn.Module):
    """Two projections around a squared ReLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = int(config.mlp_mult * config.model_dim)
        self.kernel = False
        self.fc = Linear(config.model_dim, hidden)
        self.proj = Linear(hidden, config.model_dim, zero=True)

    def forward(self, x_BTD: Tensor, scale: Tensor) -> Tensor:
        if self.kernel:
            weights = self.fc.weight.to(x_BTD.dtype), (scale[:, None] * self.proj.weight).to(x_BTD.dtype)
            return relu2_kernel.squared_relu_mlp(x_BTD.flatten(0, 1), *weights).view_as(x_BTD)
        projected: Tensor = self.proj(F.relu(self.fc(x_BTD)).square(), scale)
        return projected


class Block(nn.Module):
    """Add the skip, mix the stream with the embedding x0, then attention and MLP, each scaled per channel and added.

    The skip is added in here, not by the caller, so that a compiled block fuses it with the norm.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config)
        self.resid_mix = nn.Parameter(torch.stack((torch.ones(config.model_dim), torch.zeros(config.model_dim))))
        self.attn_scale = nn.Parameter(torch.ones(config.model_dim))
        self.mlp_scale = nn.Parameter(torch.ones(config.model_dim))

    def forward(
        self,
        x_BTD: Tensor,
        x0_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        skip_BTD: Tensor | None = None,
        skip_weight: Tensor | None = None,
    ) -> Tensor:
        if skip_BTD is not None and skip_weight is not None:
            x_BTD = x_BTD + skip_weight.to(x_BTD.dtype) * skip_BTD
        mix = self.resid_mix.to(x_BTD.dtype)
        x = mix[0] * x_BTD + mix[1] * x0_BTD
        attended: Tensor = self.attention(rms_norm(x), self.attn_scale, cos, sin)
        x = x + attended
        expanded: Tensor = self.mlp(rms_norm(x), self.mlp_scale)
        return x + expanded


class Head(nn.Module):
    """Final norm, logits, soft cap, cross-entropy in float32.  The weight is the caller's: tied or not."""

    def __init__(self, vocab_size: int, softcap: float) -> None:
        super().__init__()
        self.softcap = softcap
        self.chunked = ChunkedLoss(vocab_size, softcap) if vocab_size > WHOLE_VOCAB else None

    def forward(self, x_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor, per_sequence: bool = False) -> Tensor:
        """Mean loss in nats per token: of all, or (B,) of each sequence, without gradients."""
        x, targets = rms_norm(x_BTD).flatten(0, 1), targets_BT.flatten()
        if self.chunked is not None and not per_sequence:
            return self.chunked.mean(x, weight_VD, targets)
        each = self.chunked.each if self.chunked is not None else partial(token_losses, softcap=self.softcap)
        losses = each(x, weight_VD, targets)
        return losses.view_as(targets_BT).mean(1) if per_sequence else losses.mean()

    def compile_parts(self, backend: str) -> None:
        """Compile the whole, or, where it goes by chunks, what happens to a chunk."""
        if self.chunked is None:
            self.compile(dynamic=False, fullgraph=True, backend=backend)
        else:
            self.chunked.compile(backend)


class GPT(nn.Module):
    """Decoder with U-Net skips: the first half of the blocks push, the second half pop and add.

    Args:
        config: sizes and initial values.
        dtype: of the activations; parameters are float32.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.compiled = False
        self.embedding = nn.Embedding(config.vocab_size, config.model_dim)
        nn.init.normal_(self.embedding.weight, std=config.embed_init_std if config.tie_embeddings else 1.0)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.pushes = config.num_layers // 2
        self.skip_weights = nn.Parameter(torch.ones(self.pushes, config.model_dim))
        self.head = Head(config.vocab_size, config.logit_softcap)
        self.lm_head = None if config.tie_embeddings else Linear(config.model_dim, config.vocab_size, zero=True)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, per_sequence: bool = False) -> Tensor:
        """Mean cross-entropy in nats per token, float32; tokens and targets are (B, T) int64 ids.

        A scalar, or (B,) and without gradients where it is wanted `per_sequence`.
        """
        head_dim = self.config.model_dim // self.config.num_heads
        cos, sin = rotary_tables(tokens_BT.size(1), head_dim, self.config.rope_base, tokens_BT.device)
        x0 = rms_norm(self.embedding(tokens_BT).to(self.dtype))
        # Views, as an argument that is given twice would get graphs of its own: five in place of three.
        x = x0.view_as(x0)
        pushed: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if index >= self.pushes and pushed:
                x = block(x, x0, cos, sin, pushed.pop(), self.skip_weights[index - self.pushes])
            else:
                x = block(x, x0, cos, sin)
            if index < self.pushes:
                pushed.append(x.view_as(x))
        weight = self.embedding.weight if self.lm_head is None else self.lm_head.weight
        with torch.set_grad_enabled(torch.is_grad_enabled() and not per_sequence):
            loss: Tensor = self.head(x, weight, targets_BT, per_sequence)
        return loss

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile block by block: three graphs serve every depth, and a shape compiles once a process.

        On a GPU that has them, our own kernels take the place of what the compiler would make of two parts.

        Args:
            backend: of torch.compile; tests count graphs without making any code of them.
        """
        torch._dynamo.config.recompile_limit = 256
        self.compiled = True
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.kernel = use_rotate_kernel(self.config, self.dtype)
            block.mlp.kernel = use_relu2_kernel(self.config, self.dtype)
            block.compile(dynamic=False, fullgraph=True, backend=backend)
        self.head.compile_parts(backend)


def use_rotate_kernel(config: ModelConfig, dtype: torch.dtype) -> bool:
    """Whether the device and the shapes suit rotate_kernel: bfloat16 on CUDA, head widths that are powers of two."""
    half = config.model_dim // config.num_heads // 2
    return torch.cuda.is_available() and dtype == torch.bfloat16 and half >= 16 and half & (half - 1) == 0


def use_relu2_kernel(config: ModelConfig, dtype: torch.dtype) -> bool:
    """Whether they suit relu2_kernel: Hopper, which has the copy engine it needs, and whole tiles."""
    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
    hidden = int(config.mlp_mult * config.model_dim)
    return hopper and dtype == torch.bfloat16 and config.model_dim % 64 == 0 and hidden % 256 == 0
