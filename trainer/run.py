"""The parts of one run, and what is due at each step."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer import accumulate, checkpoint, device, events, schedule
from trainer.clock import Clock
from trainer.config import TrainConfig
from trainer.curve import Curve
from trainer.data import TrainBatches, corpus_for
from trainer.distributed import ALONE, Group
from trainer.divergence import Diverged
from trainer.evaluate import Score, Validator
from trainer.finish import Finish, audible, fields
from trainer.models.gpt import GPT
from trainer.optim import Optimizers
from trainer.readout import Readout
from trainer.weights import Weights

Emit = Callable[[events.Event], None]
MOST_EPOCHS = 4
"""Repetitions of the data that cost next to nothing (Muennighoff et al. 2023, arXiv:2305.16264)."""


_warmed: set[Hashable] = set()
"""Shapes that this process has warmed up for."""


class Stopped(Exception):
    """The run was asked to stop, and did."""


class Run:
    """The parts of one run: model, optimisers, data, clock; and what is due at each step.

    Built on every rank of `group`; nothing is exchanged with the others before `prepare`.
    """

    def __init__(self, config: TrainConfig, emit: Emit, should_stop: Callable[[], bool], group: Group = ALONE) -> None:
        self.config = config
        self.emit = emit
        self.should_stop = should_stop
        self.group = group
        self.device = device.choose(config.runtime.device)
        group.check(self.device)
        device.reset_peak_memory(self.device)
        corpus = corpus_for(config, self.device)
        self.model = self._build_model()
        self.optimizers = Optimizers(self.model, config.optim, group)
        self.weights = Weights(self.model, config)
        self.clock = Clock(config.budget, config.data.batch_tokens, self.device)
        seq_len = config.data.seq_len
        self.batches = TrainBatches(corpus.train, seq_len, config.seeds.data)
        self.accumulator = accumulate.Accumulator(
            self.model,
            self.batches,
            sequences=accumulate.sequences_a_rank(config, group),
            largest_micro_sequences=accumulate.largest_micro_sequences(config, self.device),
            shape=(config.model, seq_len),
            device=self.device,
            group=group,
            notify=lambda message: emit(events.Notice(message=message)),
        )
        wanted, rows = config.eval, self.accumulator.micro_sequences
        validator = partial(Validator, corpus, seq_len=seq_len, batch_sequences=rows, device=self.device, group=group)
        validator = partial(validator, by_document=wanted.by_document)
        self.validate_rung = validator(tokens=wanted.val_tokens)
        self.validate_final = validator(tokens=wanted.final_val_tokens)
        sliding = validator(tokens=wanted.final_val_tokens, stride=wanted.stride) if wanted.stride else None
        self.finish = Finish(config.export, self.validate_final, sliding, self.device, group, emit)
        self.evaluations_done = 0
        self._saved_at = 0.0
        self._stop_asked = False
        self._told_of_repetition = False
        self._readout = Readout(Curve(config.runtime.log_every_seconds), emit)

    def _build_model(self) -> GPT:
        wanted = self.config.runtime.compile
        torch.manual_seed(self.config.seeds.init)
        with self.device:  # drawn there: the host would take 0.3 s for 24 M weights
            model = GPT(self.config.model, device.compute_dtype(self.device))
        if wanted == "on" or (wanted == "auto" and self.device.type == "cuda"):
            model.compile_blocks()
        return model

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
                devices=self.group.size,
                **device.compiled(),
            )
        )

    def to_the_end(self) -> None:
        """Steps until the budget is used, validations where they are due, the outcome and what follows it.

        Raises:
            Stopped: on request; a checkpoint is written first where they are on.
            Diverged: NaN, infinity, or a loss above its initial value after a tenth of the budget.
        """
        if self._evaluation_is_due():
            self._evaluate_rung()  # the run was stopped in the middle of this one
        self._agree()
        self.clock.resume()
        while not self.clock.exhausted:
            if self._stop_asked:
                self.clock.pause()
                self._save()
                raise Stopped
            self._step()
            self._agree()
            if self._evaluation_is_due():
                self._off_the_clock(self._evaluate_rung)
            if self._checkpoint_is_due():
                self._off_the_clock(self._save)
        self.clock.pause()
        self._readout.read(self.clock, keep=0)
        self._save()
        # The last point of the curve is measured as all others were; the score may take more of the text.
        streamed = self._evaluate(self.validate_rung, fraction=1.0)
        same = self.validate_final.tokens == self.validate_rung.tokens and not self.weights.averaged
        with self.weights.in_the_end():
            score = streamed if same else self._score(self.validate_final)
            self.emit(events.Outcome(**self._moment(), **fields(score)))
            self.finish.run(self.model, score, self._score, self._moment())

    def _step(self) -> None:
        progress = self.clock.next_progress
        factor = schedule.lr_factor(self.config.schedule, progress)
        with self.weights.in_training(progress):
            loss = self.accumulator.run()
        self._readout.add(loss, step=self.clock.step + 1, progress=progress, lr_factor=factor)
        self.optimizers.step(lr_factor=factor, momentum=schedule.momentum(self.config.optim, progress))
        self.weights.take_in(progress, factor)
        self.clock.tick()
        # On CUDA the clock has waited for the step before this one: its loss is there without a stall.
        self._readout.read(self.clock, keep=1 if self.device.type == "cuda" else 0)
        if self.batches.epoch >= MOST_EPOCHS and not self._told_of_repetition:
            self._told_of_repetition = True
            self.emit(
                events.Notice(
                    message=f"the training tokens are being repeated for the {self.batches.epoch}th time: the model "
                    "now memorises them, and val_bpb says little about rates; use a larger data set or a smaller budget"
                )
            )

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
        self._readout.read(self.clock, keep=0)
        try:
            self._evaluate(self.validate_rung, self.config.eval.fractions[self.evaluations_done])
        except Stopped:
            self._save()  # in the end nothing more is trained, and what was saved before is enough
            raise
        self.evaluations_done += 1

    def _evaluate(self, validator: Validator, fraction: float) -> Score:
        began = time.perf_counter()
        score = self._score(validator)
        self.emit(
            events.Eval(
                **self._moment(),
                progress=self.clock.progress,
                fraction=fraction,
                **fields(score),
                eval_seconds=time.perf_counter() - began,
            )
        )
        return score

    def _score(self, validator: Validator) -> Score:
        score = validator.score(self.model, audible(self.should_stop, self.emit))
        if score is None:
            raise Stopped
        if not math.isfinite(score.val_loss):
            raise Diverged(f"val_loss is {score.val_loss} at step {self.clock.step}")
        return score

    def _agree(self) -> None:
        """Go by rank 0's clock, and stop where any rank is asked to: all that is due follows from these two.

        Whether memory ran out is agreed on apart: it must be known before the gradients are averaged, but the clock
        only after the step.
        """
        reading = self.clock.reading if self.group.rank == 0 else (0.0, 0.0)
        seconds, last_step_seconds, stop = self.group.largest(*reading, self.should_stop())
        self.clock.reading = seconds, last_step_seconds
        self._stop_asked = bool(stop)

    def _moment(self) -> dict[str, Any]:
        return {"step": self.clock.step, "tokens": self.clock.tokens, "seconds": self.clock.seconds}

    def _off_the_clock(self, action: Callable[[], None]) -> None:
        self.clock.pause()
        self._agree()
        action()
        self.clock.resume()

    def _warm_up(self) -> None:
        """Untimed steps that compile and allocate, undone to the bit: fresh optimisers, the same weights.

        Once a process for each shape: what was compiled serves every depth.
        """
        if self._shape() in _warmed:
            return
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        with device.uncollected():
            for _ in range(self.config.runtime.warmup_steps):
                with self.weights.in_training(progress=1.0):
                    self.accumulator.run()
                self.optimizers.step(lr_factor=1.0, momentum=self.config.optim.momentum)
            for validator in (self.validate_rung, self.validate_final):
                validator.warm_up(self.model)
        self.model.load_state_dict(weights)
        self.optimizers = Optimizers(self.model, self.config.optim, self.group)
        self.batches.position = 0
        _warmed.add(self._shape())

    def _shape(self) -> Hashable:
        model = self.config.model
        width = dataclasses.replace(model, num_layers=1)
        sequences = self.accumulator.micro_sequences
        return width, model.block_kinds, self.config.data.seq_len, sequences, self.config.runtime

    def _save(self) -> None:
        if not self.config.checkpoint.path:
            return
        self._readout.read(self.clock, keep=0)
        if self.group.rank == 0:
            checkpoint.save(Path(self.config.checkpoint.path), self._state())
        self._saved_at = self.clock.seconds

    def _state(self) -> dict[str, Any]:
        """For a checkpoint: the same on every rank, so that any number of devices can go on from it."""
        return {
            "config": self.config.to_dict(),
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state(),
            "weights": self.weights.state(),
            "position": self.batches.position,
            "clock": self.clock.state(),
            "random": checkpoint.random_state(self.device),
            "divergence": self._readout.divergence.state(),
            "evaluations_done": self.evaluations_done,
        }

    def _resume(self) -> int:
        """Take up a checkpoint if there is one; the step it was saved at, 0 for none."""
        if not self.config.checkpoint.path:
            return 0
        folder, wanted = Path(self.config.checkpoint.path), self.config.to_dict()
        state = self.group.together(lambda: checkpoint.load(folder, self.device, wanted), (checkpoint.CheckpointError,))
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizers.restore(state["optimizers"])
        if "weights" in state:  # checkpoints of earlier versions know of no averages
            self.weights.restore(state["weights"])
        self.batches.position = state["position"]
        self.clock.restore(state["clock"])
        self._readout.divergence.restore(state["divergence"])
        self.evaluations_done = state["evaluations_done"]
        checkpoint.restore_random_state(state["random"], self.device)
        self._saved_at = self.clock.seconds
        self._readout.curve.begin(self.clock)
        return self.clock.step
