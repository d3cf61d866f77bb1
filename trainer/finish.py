"""What follows the Outcome, off the clock: a score with overlapping windows, the artifact, its own scores."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer import events, quantize
from trainer.config import ExportConfig
from trainer.device import synchronize
from trainer.distributed import Group
from trainer.evaluate import Score, Validator
from trainer.weights import holding

MOST_SILENCE_SECONDS = 30.0
"""Overlapping windows can take longer than the training: whoever listens should know that they are being scored."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the artifact, in bytes."""

    artifact: int
    raw: int


class Finish:
    """The finish of a run; built before it, so that what cannot work is known before anything is trained.

    Args:
        config: what becomes of the weights.
        plain: what the Outcome is scored with.
        sliding: the same with overlapping windows, where they are asked for.
        device: of the model.
        group: all of whose ranks score; rank 0 alone encodes and writes.
        emit: is given the events.

    Raises:
        ConfigError: the export asks for what is not there.
    """

    def __init__(
        self,
        config: ExportConfig,
        plain: Validator,
        sliding: Validator | None,
        device: torch.device,
        group: Group,
        emit: Callable[[events.Event], None],
    ) -> None:
        quantize.check(config)
        self._config = config
        self._plain, self._sliding = plain, sliding
        self._device = device
        self._group = group
        self._emit = emit

    def run(
        self, model: nn.Module, outcome: Score, score: Callable[[Validator], Score], moment: dict[str, Any]
    ) -> None:
        """Say every Score that is asked for, and the Export; the model's weights are as they were, after.

        Args:
            model: that the Outcome is of.
            outcome: its score.
            score: of the model; it raises when the run is asked to stop, and nothing here catches that.
            moment: step, tokens and seconds of the events.
        """
        say = partial(self._say, score=score, moment=moment)
        if self._sliding is not None:
            say("sliding", self._sliding)
        if self._config.scheme == "off":
            return
        began = time.perf_counter()
        parameters: dict[str, Tensor] = dict(model.named_parameters())
        weights, sizes = self._there_and_back({name: value.detach() for name, value in parameters.items()})
        synchronize(self._device)
        export_seconds = time.perf_counter() - began
        with holding(list(parameters.values()), weights):
            after = say("quantised", self._plain)
            if self._sliding is not None:
                say("quantised_sliding", self._sliding)
        counted = quantize.code_bytes(self._config.code)
        self._emit(
            events.Export(
                scheme=self._config.scheme,
                codec=self._config.codec,
                artifact_bytes=sizes.artifact + counted,
                code_bytes=counted,
                raw_bytes=sizes.raw,
                val_bpb=after.val_bpb,
                gap=after.val_bpb - outcome.val_bpb,
                export_seconds=export_seconds,
            )
        )

    def _there_and_back(self, weights: dict[str, Tensor]) -> tuple[list[Tensor], Sizes]:
        """The weights that the artifact holds, and its sizes: those of rank 0, on every rank."""
        values, sizes = list(weights.values()), Sizes(0, 0)
        if self._group.rank == 0:
            artifact = quantize.encode(weights, self._config)
            self._write(artifact.data)
            held = quantize.decode(artifact.data)
            values = [held[name].to(self._device) for name in weights]
            sizes = Sizes(len(artifact.data), artifact.raw_bytes)
        gathered = self._group.gather(values)
        return [each[0] for each in gathered], Sizes(*map(int, self._group.largest(sizes.artifact, sizes.raw)))

    def _write(self, data: bytes) -> None:
        if not self._config.path:
            return
        try:
            quantize.write(Path(self._config.path), data)
        except OSError as error:  # the scores are worth having all the same
            message = f"the artifact was not written to export.path, {self._config.path!r}: {error}"
            self._emit(events.Notice(message=message))

    def _say(
        self, name: str, validator: Validator, *, score: Callable[[Validator], Score], moment: dict[str, Any]
    ) -> Score:
        began = time.perf_counter()
        found = score(validator)
        self._emit(events.Score(name=name, **moment, **fields(found), eval_seconds=time.perf_counter() - began))
        return found


def fields(score: Score) -> dict[str, Any]:
    """What every event with a score says of it."""
    return {
        "val_loss": score.val_loss,
        "val_bpb": score.val_bpb,
        "val_tokens": score.tokens,
        "val_bpb_stderr": score.val_bpb_stderr,
    }


def audible(
    should_stop: Callable[[], bool], emit: Callable[[events.Event], None], silence_seconds: float = MOST_SILENCE_SECONDS
) -> Callable[[], bool]:
    """`should_stop`, which says a Notice now and then for as long as it is being asked."""
    began = heard = time.perf_counter()

    def ask() -> bool:
        nonlocal heard
        now = time.perf_counter()
        if now - heard > silence_seconds:
            heard = now
            emit(events.Notice(message=f"still validating, {now - began:.0f} s so far"))
        return should_stop()

    return ask
