"""Tokens from a model, one after another.  Shape key: B sequences, T tokens, V vocabulary."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.device import uncompiled
from trainer.evaluate import evaluating
from trainer.models.base import LanguageModel
from trainer.values import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn; the order is top_k, then top_p of what is left."""

    temperature: float = 0.8
    """Logits are divided by it; 0 takes the likeliest token."""
    top_k: int = 50
    """Only so many of the likeliest; 0 for all."""
    top_p: float = 0.95
    """Only the fewest likeliest whose probabilities reach this sum; 1 for all."""

    def __post_init__(self) -> None:
        require(self.temperature >= 0, f"temperature must not be negative, got {self.temperature}")
        require(self.top_k >= 0, f"top_k must not be negative, got {self.top_k}")
        require(0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p}")


def stream(
    model: LanguageModel, prompt: Sequence[int], *, seq_len: int, sampling: Sampling, generator: torch.Generator
) -> Iterator[int]:
    """The tokens that follow `prompt`, for as long as they are asked for.

    The model sees the last `seq_len` tokens.

    Args:
        prompt: token ids, at least one.
        generator: on the host; the only source of chance, so that a run's own is left alone.

    Raises:
        ConfigError: an empty prompt.
    """
    require(len(prompt) > 0, "the prompt is empty; give it one token at least")
    device = next(model.parameters()).device
    ids = list(prompt)
    while True:
        window = ids[-seq_len:]
        padded = torch.tensor([window + [window[-1]] * (seq_len - len(window))], device=device)
        # Uncompiled: one sequence is a shape of its own, and what compiling it takes is longer than most continuations.
        with evaluating(model), uncompiled():
            logits_V = model.next_logits(padded, len(window) - 1)[0].detach().float()
        ids.append(draw(logits_V, sampling, generator))
        yield ids[-1]


def generate(tokens: Iterable[int], most: int, stops: Sequence[Sequence[int]] = ()) -> list[int]:
    """Up to `most` of the tokens; the first of `stops`, sequences of ids, that they end with ends them, left out."""
    ids: list[int] = []
    for token in itertools.islice(tokens, most):
        ids.append(token)
        for stop in stops:
            if stop and ids[-len(stop) :] == list(stop):
                return ids[: -len(stop)]
    return ids


def draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token id."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    shares_K, words_K = candidates(logits_V, sampling)
    return int(words_K[torch.multinomial(shares_K, 1, generator=generator)])


def candidates(logits_V: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(K,) shares, the largest first, some of them 0, and (K,) ids of what `draw` draws from; both on the host.

    Chosen where the logits are: of a vocabulary only the few that are left go to the host.
    """
    count = min(sampling.top_k or len(logits_V), len(logits_V))
    scaled, words = (logits_V / sampling.temperature).topk(count)
    shares = scaled.softmax(0)
    if sampling.top_p < 1:
        shares = shares.masked_fill(shares.cumsum(0) - shares >= sampling.top_p, 0.0)
    return (shares / shares.sum()).cpu(), words.cpu()


class Samples:
    """What a model says to the same prompts at every validation.

    Args:
        prompts: each the ids of one.
        tokens: of a continuation.
        seq_len: that the model was trained with.
        seed: of the draws, with the step.
    """

    def __init__(self, prompts: list[list[int]], *, tokens: int, seq_len: int, seed: int) -> None:
        self._prompts = prompts
        self._tokens = tokens
        self._seq_len = seq_len
        self._seed = seed

    def of(self, model: LanguageModel, step: int) -> list[tuple[list[int], list[int]]]:
        """Prompt and continuation of each sample; the same for the same model and step."""
        generator = torch.Generator().manual_seed(1_000_003 * self._seed + step)
        said = []
        for prompt in self._prompts:
            tokens = stream(model, prompt, seq_len=self._seq_len, sampling=Sampling(), generator=generator)
            said.append((prompt, generate(tokens, self._tokens)))
        return said
