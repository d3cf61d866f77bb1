"""The GPT of the parameter-golf baseline (openai/parameter-golf, train_gpt.py, 2026-03), written anew, and its options.

Shape key: B sequences, T tokens, D model width, V vocabulary.  At ModelConfig's defaults: 17,059,912 parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import torch
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.models import init
from trainer.models.attention import use_rotate_kernel
from trainer.models.base import Groups, LanguageModel
from trainer.models.block import Block, LaneBlock
from trainer.models.embedding import Stem
from trainer.models.head import Head
from trainer.models.mlp import use_relu2_kernel
from trainer.models.parts import Linear, rms_norm, rotary_tables

PAIRS = "bigram.table.weight"
"""Of the stem's parameters, the table of token pairs: looked up as the embedding is, and trained like it."""


class GPT(LanguageModel):
    """Decoder with U-Net skips: the first half of the passes through a block push, the second half pop and add.

    What an option adds is drawn after all else, so that with one seed the other weights begin as they do without it.

    Args:
        config: sizes, initial values and options.
        dtype: of the activations; parameters are float32.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.embedding = nn.Embedding(config.vocab_size, config.model_dim)
        nn.init.normal_(self.embedding.weight, std=config.embed_init_std if config.tie_embeddings else 1.0)
        one_lane = config.num_layers - config.parallel_last_layers
        self.blocks = nn.ModuleList(
            Block(config, layer) if layer < one_lane else LaneBlock(config, layer) for layer in range(config.num_layers)
        )
        self.order = config.block_order
        self.pushes = len(self.order) // 2
        self.skip_weights = nn.Parameter(torch.ones(self.pushes, config.model_dim))
        self.head = Head(config.vocab_size, config.logit_softcap, config.label_smoothing)
        self.lm_head = None if config.tie_embeddings else Linear(config.model_dim, config.vocab_size, zero=True)
        self.stem = Stem(config) if config.bigram_buckets or config.smear_gate else None
        self._initialise()

    def _initialise(self) -> None:
        config = self.config
        if config.embed_init == "overtone":
            init.overtone_(self.embedding.weight)
        if config.linear_init != "uniform":
            gain = (2 * config.num_layers) ** -0.5 if config.linear_init == "orthogonal_projections" else 0.0
            parts = [*self.blocks.modules(), *(() if self.stem is None else self.stem.modules())]
            init.orthogonal_([part for part in parts if isinstance(part, Linear)], gain)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, per_token: bool = False) -> Tensor:
        """As LanguageModel says; the mean is smoothed in training where the config says so."""
        x = self._through_blocks(self._embedded(tokens_BT))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not per_token):
            loss: Tensor = self.head(x, self._head_weight, targets_BT, per_token)
        return loss

    def next_logits(self, tokens_BT: Tensor, position: int) -> Tensor:
        x = self._through_blocks(self._embedded(tokens_BT))
        return self.head.logits(x[:, position], self._head_weight)

    @property
    def _head_weight(self) -> Tensor:
        return self.embedding.weight if self.lm_head is None else self.lm_head.weight

    def _embedded(self, tokens_BT: Tensor) -> Tensor:
        rows = self.embedding(tokens_BT).to(self.dtype)
        if self.stem is None:
            return rms_norm(rows)
        x0: Tensor = self.stem(rows, *self.stem.gathered(tokens_BT, self.dtype))
        return x0

    def _through_blocks(self, x0_BTD: Tensor) -> Tensor:
        tables = rotary_tables(x0_BTD.size(1), self.config.rotary_dims, self.config.rope_base, x0_BTD.device)
        # Views, as an argument that is given twice would get graphs of its own: five in place of three.
        x = x0_BTD.view_as(x0_BTD)
        lane: Tensor | None = None
        pushed: list[Tensor] = []
        for position, block in enumerate(self.blocks[layer] for layer in self.order):
            popped: tuple[Tensor, ...] = ()
            if position >= self.pushes and pushed:
                popped = pushed.pop(), self.skip_weights[position - self.pushes]
            if isinstance(block, LaneBlock):
                x, lane = block(x, x.view_as(x) if lane is None else lane, x0_BTD, *tables, *popped)
            else:
                x, lane = block(_merged(x, lane), x0_BTD, *tables, *popped), None
            if position < self.pushes:
                pushed.append(x.view_as(x))
        return _merged(x, lane)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile block by block: three graphs serve every depth, and a shape compiles once a process.

        On a GPU that has them, our own kernels take the place of what the compiler would make of two parts.
        """
        torch._dynamo.config.recompile_limit = 256
        self.compiled = True
        for block in self.blocks:
            assert isinstance(block, Block | LaneBlock)
            block.attention.kernel = use_rotate_kernel(self.config, self.dtype)
            block.mlp.kernel = use_relu2_kernel(self.config, self.dtype)
            block.compile(dynamic=False, fullgraph=True, backend=backend)
        if self.stem is not None:
            self.stem.compile(dynamic=False, fullgraph=True, backend=backend)
        self.head.compile_parts(backend)

    def groups(self) -> Groups:
        inside = [parameter for block in self.blocks for parameter in block.named_parameters()]
        stem = [] if self.stem is None else list(self.stem.named_parameters())
        inside += [(name, p) for name, p in stem if name != PAIRS]
        return {
            "embedding": [self.embedding.weight, *(p for name, p in stem if name == PAIRS)],
            "matrix": [p for name, p in inside if _is_matrix(name, p)],
            "scalar": [self.skip_weights, *(p for name, p in inside if not _is_matrix(name, p))],
            "head": [] if self.lm_head is None else [self.lm_head.weight],
        }

    @property
    def graph_key(self) -> Hashable:
        return dataclasses.replace(self.config, num_layers=1), self.config.block_kinds


def _is_matrix(name: str, parameter: Tensor) -> bool:
    # These are (2, D) and (2, 3): scales of two streams each, no matrices to orthogonalise.
    return parameter.ndim == 2 and name not in ("resid_mix", "lane_mix")


def _merged(x_BTD: Tensor, lane_BTD: Tensor | None) -> Tensor:
    """The mean of two lanes, or the only one."""
    return x_BTD if lane_BTD is None else (x_BTD + lane_BTD) / 2
