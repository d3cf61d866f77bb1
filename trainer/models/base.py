"""What a run asks of a model, whatever its family.  Shape key: B sequences, T tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, Literal

from torch import Tensor, nn

GroupName = Literal["embedding", "matrix", "scalar", "head"]
Groups = dict[GroupName, list[Tensor]]


class LanguageModel(nn.Module, ABC):
    """A causal model of token sequences that knows its loss, its parts to compile, and which optimiser takes what."""

    compiled: bool = False
    """Whether validation runs the graphs that training compiled; it then keeps gradients on."""

    @abstractmethod
    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, per_token: bool = False) -> Tensor:
        """Mean cross-entropy in nats per token, float32; tokens and targets are (B, T) int64 ids.

        A scalar; or (B, T) without gradients, and without anything that is for training alone, where it is wanted
        `per_token`.
        """

    @abstractmethod
    def next_logits(self, tokens_BT: Tensor, position: int) -> Tensor:
        """(B, V) logits of the token that follows `position`; tokens behind it do not count."""

    @abstractmethod
    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile in parts that serve every model of `graph_key`. The backend is torch.compile's; tests count graphs
        without making any code of them."""

    @abstractmethod
    def groups(self) -> Groups:
        """Every parameter in exactly one group: embedding, matrix (2-D weights inside), scalar (the rest inside), head
        (empty when tied)."""

    def set_dropout(self, share: float | None) -> None:
        """Drop another share from now on; None is the model's own."""
        if share is not None:
            raise ValueError(f"this family has no dropout to set to {share}")

    @property
    @abstractmethod
    def graph_key(self) -> Hashable:
        """Equal for models that share all compiled graphs."""

    def report(self, seq_len: int) -> dict[str, Any]:
        """What its parameters are, by name, where a family has more to say than their count."""
        return {}

    def findings(self) -> str:
        """What the last validation showed of the model's inside, in one line; empty where there is nothing to say."""
        return ""
