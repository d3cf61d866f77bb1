"""The parts of one run, and what is due at each step."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import accumulate, checkpoint, device, events, schedule
from trainer.clock import Clock
from trainer.config import TrainConfig
from trainer.curve import Curve
from trainer.data import Corpus, DataError, TrainBatches, open_corpus
from trainer.divergence import Diverged, DivergenceWatch
from trainer.evaluate import Score, Validator
from trainer.models.gpt import GPT
from trainer.optim import Optimizers

Emit = Callable[[events.Event], None]
MOST_EPOCHS = 4
"""Repetitions of the data that cost next to nothing (Muennighoff et al. 2023, arXiv:2305.16264)."""


_warmed: set[Hashable] = set()
"""Shapes that this process has warmed up for."""


class Stopped(Exception):
    """The run was asked to stop, and did."""


class Run:
    """The parts of one run: model, optimisers, data, clock; and what is due at each step."""

    def __init__(self, config: TrainConfig, emit: Emit, should_stop: Callable[[], bool]) -> None:
        self.config = config
        self.emit = emit
        self.should_stop = should_stop
        self.device = device.choose(config.runtime.device)
        device.reset_peak_memory(self.device)
        corpus = self._open_corpus()
        torch.manual_seed(config.seeds.init)
        self.model = GPT(config.model, device.compute_dtype(self.device)).to(self.device)
        if config.runtime.compile == "on" or (config.runtime.compile == "auto" and self.device.type == "cuda"):
            self.model.compile_blocks()
        self.optimizers = Optimizers(self.model, config.optim)
        self.clock = Clock(config.budget, config.data.batch_tokens, self.device)
        seq_len = config.data.seq_len
        self.batches = TrainBatches(corpus.train, seq_len, config.seeds.data)
        self.accumulator = accumulate.Accumulator(
            self.model,
            self.batches,
            sequences=config.data.batch_tokens // seq_len,
            largest_micro_sequences=accumulate.largest_micro_sequences(config, self.device),
            shape=(config.model, seq_len),
            device=self.device,
            notify=lambda message: emit(events.Notice(message=message)),
        )
        self.validate_rung, self.validate_final = (
            Validator(
                corpus,
                seq_len=seq_len,
                tokens=tokens,
                batch_sequences=self.accumulator.micro_sequences,
                device=self.device,
            )
            for tokens in (config.eval.val_tokens, config.eval.final_val_tokens)
        )
        self.evaluations_done = 0
        self._saved_at = 0.0
        self._divergence = DivergenceWatch()
        self._told_of_repetition = False
        self._curve = Curve(config.runtime.log_every_seconds)
        self._unread: deque[tuple[Tensor, int, float]] = deque()

    def _open_corpus(self) -> Corpus:
        folder, vocab_size = self.config.data.path, self.config.model.vocab_size
        if not folder:
            raise DataError("data.path is empty; it names a folder that `sweeper data prepare` wrote")
        corpus = open_corpus(Path(folder), self.device)
        if len(corpus.token_bytes) > vocab_size:
            ids = len(corpus.token_bytes)
            raise DataError(
                f"the data in {folder!r} uses {ids} token ids, but model.vocab_size is {vocab_size}; "
                f"set it to at least {ids}"
            )
        return corpus

    def prepare(self, began: float) -> None:
        """Warm up, resume from a checkpoint if there is one, and say Start."""
        self._warm_up()
        resumed_step = self._resume()
        self.emit(
            events.Start(
                device=self.device.type,
                device_name=device.name(self.device),
                versions=device.versions(),
                parameters=sum(parameter.numel() for parameter in self.model.parameters()),
                micro_batch_tokens=self.accumulator.micro_sequences * self.config.data.seq_len,
                accumulation=self.accumulator.micro_batches,
                setup_seconds=time.perf_counter() - began,
                resumed_step=resumed_step,
                **device.compiled(),
            )
        )

    def to_the_end(self) -> None:
        """Steps until the budget is used, validations where they are due, the outcome.

        Raises:
            Stopped: on request; a checkpoint is written first where they are on.
            Diverged: NaN, infinity, or a loss above its initial value after a tenth of the budget.
        """
        if self._evaluation_is_due():
            self._evaluate_rung()  # the run was stopped in the middle of this one
        self.clock.resume()
        while not self.clock.exhausted:
            if self.should_stop():
                self.clock.pause()
                self._save()
                raise Stopped
            self._step()
            if self._evaluation_is_due():
                self._off_the_clock(self._evaluate_rung)
            if self._checkpoint_is_due():
                self._off_the_clock(self._save)
        self.clock.pause()
        self._read_losses(keep=0)
        self._save()
        # The last point of the curve is measured as all others were; the score may take more of the text.
        streamed = self._evaluate(self.validate_rung, fraction=1.0)
        same = self.validate_final.tokens == self.validate_rung.tokens
        score = streamed if same else self._score(self.validate_final)
        self.emit(
            events.Outcome(
                **self._moment(),
                val_loss=score.val_loss,
                val_bpb=score.val_bpb,
                val_tokens=score.tokens,
                val_bpb_stderr=score.val_bpb_stderr,
            )
        )

    def _step(self) -> None:
        progress = self.clock.next_progress
        factor = schedule.lr_factor(self.config.schedule, progress)
        loss = device.start_read(self.accumulator.run())
        self.optimizers.step(lr_factor=factor, momentum=schedule.momentum(self.config.optim, progress))
        self.clock.tick()
        self._unread.append((loss, self.clock.step, factor))
        # On CUDA the clock has waited for the step before this one: its loss is there without a stall.
        self._read_losses(keep=1 if self.device.type == "cuda" else 0)
        if self.batches.epoch >= MOST_EPOCHS and not self._told_of_repetition:
            self._told_of_repetition = True
            self.emit(
                events.Notice(
                    message=f"the training tokens are being repeated for the {self.batches.epoch}th time: the model "
                    "now memorises them, and val_bpb says little about rates; use a larger data set or a smaller budget"
                )
            )

    def _read_losses(self, keep: int) -> None:
        """Judge and log the losses of all but the last `keep` steps.

        Raises:
            Diverged: one of them says so.
        """
        while len(self._unread) > keep:
            tensor, step, factor = self._unread.popleft()
            loss, progress = tensor.item(), self.clock.progress
            self._divergence.see(loss, step, progress)
            rate = self._curve.due(self.clock)
            if rate is not None:
                moment = {**self._moment(), "step": step, "progress": progress}
                self.emit(events.Step(**moment, train_loss=loss, lr_factor=factor, tokens_per_second=rate))

    def _checkpoint_is_due(self) -> bool:
        wanted = self.config.checkpoint
        return bool(wanted.path) and self.clock.seconds - self._saved_at >= wanted.every_seconds

    def _evaluation_is_due(self) -> bool:
        fractions = self.config.eval.fractions
        return (
            self.evaluations_done < len(fractions)
            and self.clock.progress >= fractions[self.evaluations_done]
            and not self.clock.exhausted
        )

    def _evaluate_rung(self) -> None:
        self._read_losses(keep=0)
        self._evaluate(self.validate_rung, self.config.eval.fractions[self.evaluations_done])
        self.evaluations_done += 1

    def _evaluate(self, validator: Validator, fraction: float) -> Score:
        began = time.perf_counter()
        score = self._score(validator)
        self.emit(
            events.Eval(
                **self._moment(),
                progress=self.clock.progress,
                fraction=fraction,
                val_loss=score.val_loss,
                val_bpb=score.val_bpb,
                val_tokens=score.tokens,
                val_bpb_stderr=score.val_bpb_stderr,
                eval_seconds=time.perf_counter() - began,
            )
        )
        return score

    def _score(self, validator: Validator) -> Score:
        score = validator.score(self.model, self.should_stop)
        if score is None:
            self._save()
            raise Stopped
        if not math.isfinite(score.val_loss):
            raise Diverged(f"val_loss is {score.val_loss} at step {self.clock.step}")
        return score

    def _moment(self) -> dict[str, Any]:
        return {"step": self.clock.step, "tokens": self.clock.tokens, "seconds": self.clock.seconds}

    def _off_the_clock(self, action: Callable[[], None]) -> None:
        self.clock.pause()
        action()
        self.clock.resume()

    def _warm_up(self) -> None:
        """Untimed steps that compile and allocate, undone to the bit: fresh optimisers, the same weights.

        Once a process for each shape: what was compiled serves every depth.
        """
        if self._shape() in _warmed:
            return
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        for _ in range(self.config.runtime.warmup_steps):
            self.accumulator.run()
            self.optimizers.step(lr_factor=1.0, momentum=self.config.optim.momentum)
        for validator in (self.validate_rung, self.validate_final):
            validator.warm_up(self.model)
        self.model.load_state_dict(weights)
        self.optimizers = Optimizers(self.model, self.config.optim)
        self.batches.position = 0
        _warmed.add(self._shape())

    def _shape(self) -> Hashable:
        width = dataclasses.replace(self.config.model, num_layers=1)
        return width, self.config.data.seq_len, self.accumulator.micro_sequences, self.config.runtime

    def _save(self) -> None:
        if not self.config.checkpoint.path:
            return
        self._read_losses(keep=0)
        checkpoint.save(
            Path(self.config.checkpoint.path),
            {
                "config": self.config.to_dict(),
                "model": self.model.state_dict(),
                "optimizers": self.optimizers.state(),
                "position": self.batches.position,
                "clock": self.clock.state(),
                "random": checkpoint.random_state(self.device),
                "divergence": self._divergence.state(),
                "evaluations_done": self.evaluations_done,
            },
        )
        self._saved_at = self.clock.seconds

    def _resume(self) -> int:
        """Take up a checkpoint if there is one; the step it was saved at, 0 for none."""
        if not self.config.checkpoint.path:
            return 0
        state = checkpoint.load(Path(self.config.checkpoint.path), self.device, self.config.to_dict())
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizers.restore(state["optimizers"])
        self.batches.position = state["position"]
        self.clock.restore(state["clock"])
        self._divergence.restore(state["divergence"])
        self.evaluations_done = state["evaluations_done"]
        checkpoint.restore_random_state(state["random"], self.device)
        self._saved_at = self.clock.seconds
        self._curve.begin(self.clock)
        return self.clock.step
