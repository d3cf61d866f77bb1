"""Validations of a run: when they are due, what they are measured on, what they found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from trainer import events
from trainer.clock import Clock
from trainer.config import TrainConfig
from trainer.data import Corpus
from trainer.distributed import Group
from trainer.divergence import Diverged
from trainer.evaluate import Score, Validator
from trainer.finish import audible, fields
from trainer.generate import Samples
from trainer.models.base import LanguageModel

PROMPT_TOKENS = 32


class Stopped(Exception):
    """The run was asked to stop, and did."""


class Validation:
    """Validates one model on the same tokens at every share of the budget that asks for it.

    Args:
        config: of the run.
        corpus: whose validation split is scored.
        rows: windows a forward pass.
        emit: is given the events.
        should_stop: asked on the way.
    """

    def __init__(
        self,
        config: TrainConfig,
        corpus: Corpus,
        rows: int,
        device: torch.device,
        group: Group,
        emit: Callable[[events.Event], None],
        should_stop: Callable[[], bool],
    ) -> None:
        wanted, seq_len = config.eval, config.data.seq_len
        validator = partial(Validator, seq_len=seq_len, batch_sequences=rows, device=device, group=group)
        validator = partial(validator, by_document=wanted.by_document)
        self.rung = validator(corpus, tokens=wanted.val_tokens)
        self.final = validator(corpus, tokens=wanted.final_val_tokens)
        self.sliding = (
            validator(corpus, tokens=wanted.final_val_tokens, stride=wanted.stride) if wanted.stride else None
        )
        self._of_other_data = partial(validator, tokens=wanted.val_tokens)
        self._fractions = wanted.fractions
        prompts = _prompts(corpus, wanted.sample_prompts if wanted.sample_tokens else 0)
        self._samples = Samples(prompts, tokens=wanted.sample_tokens, seq_len=seq_len, seed=config.seeds.data)
        self._emit, self._should_stop = emit, should_stop
        self.done = 0
        """Shares of the budget that were validated."""
        self.latest: float | None = None
        """val_bpb of the last validation."""
        self.best: float | None = None

    def due(self, clock: Clock) -> bool:
        """Whether the next share of the budget has come, on the way."""
        reached = self.done < len(self._fractions) and clock.progress >= self._fractions[self.done]
        return reached and not clock.exhausted

    def at_rung(self, model: LanguageModel, clock: Clock) -> None:
        """The validation that is due; raises as `score`."""
        self.streamed(model, clock, self._fractions[self.done])
        self.done += 1

    def streamed(self, model: LanguageModel, clock: Clock, fraction: float) -> Score:
        """A point of the curve at a share of the budget, and samples; raises as `score`."""
        began = time.perf_counter()
        score = self.score(model, self.rung)
        self.latest = score.val_bpb
        self.best = min(score.val_bpb, math.inf if self.best is None else self.best)
        place: dict[str, Any] = {"step": clock.step, "tokens": clock.tokens}
        self._emit(
            events.Eval(
                **place,
                seconds=clock.seconds,
                progress=clock.progress,
                fraction=fraction,
                **fields(score),
                eval_seconds=time.perf_counter() - began,
            )
        )
        if findings := model.findings():
            self._emit(events.Notice(message=f"at {fraction:.0%} of the budget: {findings}"))
        for prompt, continuation in self._samples.of(model, clock.step):
            self._emit(events.Sample(**place, prompt_ids=prompt, ids=continuation))
        return score

    def on_own_text(self, model: LanguageModel, phase: str, corpus: Corpus) -> None:
        """Say how the model does on the validation text of a phase that had data of its own; raises as `score`."""
        score = self.score(model, self._of_other_data(corpus))
        message = f"after {phase}, on the validation text of its own data: val_bpb {score.val_bpb:.4f}"
        self._emit(events.Notice(message=f"{message}, val_loss {score.val_loss:.4f}"))

    def score(self, model: LanguageModel, validator: Validator) -> Score:
        """The score of a model.

        Raises:
            Stopped: the run was asked to stop meanwhile.
            Diverged: the loss is not finite.
        """
        score = validator.score(model, audible(self._should_stop, self._emit))
        if score is None:
            raise Stopped
        if not math.isfinite(score.val_loss):
            raise Diverged(f"val_loss is {score.val_loss}")
        return score

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"done": self.done, "latest": self.latest, "best": self.best}

    def restore(self, state: dict[str, Any]) -> None:
        self.done, self.latest, self.best = state["done"], state["latest"], state["best"]


def _prompts(corpus: Corpus, count: int) -> list[list[int]]:
    """The beginnings of `count` stretches that lie evenly in the validation text, as ids."""
    begins = torch.linspace(0, max(0, int(corpus.val.starts[-1]) - PROMPT_TOKENS - 1), count + 1)[:-1].long().numpy()
    return corpus.val.gather(begins, PROMPT_TOKENS).tolist() if count else []
