"""The parts of one run, and what is due at each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer import accumulate, checkpoint, device, events, schedule, snapshot
from trainer.clock import Clock
from trainer.config import TrainConfig
from trainer.curve import Curve
from trainer.data import corpus_for
from trainer.distributed import ALONE, Group
from trainer.finish import Finish, fields
from trainer.ladder import Ladder
from trainer.models.base import LanguageModel
from trainer.models.build import build
from trainer.optim import Optimizers
from trainer.phases import Phases
from trainer.readout import Readout
from trainer.validation import Stopped, Validation
from trainer.weights import Weights

Emit = Callable[[events.Event], None]

_warmed: set[Hashable] = set()
"""Shapes that this process has warmed up for."""


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
        self.ladder = Ladder(config, self.weights, self.device, emit)
        self.clock = Clock(config.budget, config.data.batch_tokens, self.device)
        seq_len = config.data.seq_len
        self.phases = Phases(config, self.device)
        self.accumulator = accumulate.Accumulator(
            self.model,
            self.phases.batches,
            sequences=accumulate.sequences_a_rank(config, group),
            largest_micro_sequences=accumulate.largest_micro_sequences(config, self.device),
            shape=(config.model, config.helix, config.seeds.topology, seq_len),
            device=self.device,
            group=group,
            notify=lambda message: emit(events.Notice(message=message)),
        )
        sequences = self.accumulator.micro_sequences
        self.validation = Validation(config, corpus, sequences, self.device, group, emit, should_stop)
        final, sliding = self.validation.final, self.validation.sliding
        self.finish = Finish(config.export, final, sliding, self.device, group, emit)
        self._saved_at = 0.0
        self.stop_asked = False
        self.readout = Readout(Curve(config.runtime.log_every_seconds), emit)

    def _build_model(self) -> LanguageModel:
        wanted = self.config.runtime.compile
        torch.manual_seed(self.config.seeds.init)
        with self.device:  # drawn there: the host would take 0.3 s for 24 M weights
            model = build(self.config, device.compute_dtype(self.device))
        checkpoint.part_ways(self.group.rank, self.device)
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
                model=self.model.report(self.config.data.seq_len),
                **device.compiled(),
            )
        )

    def to_the_end(self) -> None:
        """Steps until the budget is used, validations where they are due, the outcome and what follows it.

        Raises:
            Stopped: on request; a checkpoint is written first where they are on.
            Diverged: NaN, infinity, or a loss at or above its initial value after a tenth of the budget.
        """
        if self.validation.due(self.clock):
            self._validate()  # the run was stopped in the middle of this one
        self.agree()
        self.clock.resume()
        while not self.clock.exhausted:
            if self.stop_asked:
                self.clock.pause()
                self._save()
                raise Stopped
            if self.phases.following(self.clock.step) is not None:
                self._off_the_clock(self._next_phase)
            while self.ladder.due(self.clock):
                self._off_the_clock(self._branch)
            self.step()
            self.agree()
            if self.validation.due(self.clock):
                self._off_the_clock(self._validate)
            if self._checkpoint_is_due():
                self._off_the_clock(self._save)
        self.clock.pause()
        self.readout.read(self.clock)
        self._save(ended=self.phases.name)
        if (own := self.phases.own_corpus()) is not None:
            self.validation.on_own_text(self.model, self.phases.name, own)
        self._outcome()

    def _outcome(self) -> None:
        # The last point of the curve is measured as all others were; the score may take more of the text.
        final, rung = self.validation.final, self.validation.rung
        streamed = self.validation.streamed(self.model, self.clock, fraction=1.0)
        score_of = partial(self.validation.score, self.model)
        with self.weights.in_the_end():
            score = streamed if final.tokens == rung.tokens and not self.weights.averaged else score_of(final)
            self.emit(events.Outcome(**self._moment(), **fields(score), targets=self.phases.targets))
            self.finish.run(self.model, score, score_of, self._moment())

    def step(self) -> None:
        """One optimiser step, and what its loss says; raises as `to_the_end`."""
        progress, warming = self.clock.next_progress, self.ladder.warming(self.clock)
        factor = self.phases.lr_factor(self.clock.step, progress, warming)
        with self.weights.in_training(progress):
            loss = self.accumulator.run()
        self.readout.add(loss, step=self.clock.step + 1, progress=progress, lr_factor=factor)
        self.optimizers.step(lr_factor=factor, momentum=schedule.momentum(self.config.optim, warming))
        self.weights.take_in(progress, factor)
        self.ladder.take_in(self.clock, factor)
        self.clock.tick()
        self.readout.read(self.clock)
        if remark := self.phases.remark():
            self.emit(events.Notice(message=remark))

    def _checkpoint_is_due(self) -> bool:
        wanted = self.config.checkpoint
        return bool(wanted.path) and self.clock.seconds - self._saved_at >= wanted.every_seconds

    def _validate(self) -> None:
        """The validation that is due on the way."""
        self.readout.read(self.clock)
        before = self.validation.best
        try:
            self.validation.at_rung(self.model, self.clock)
        except Stopped:
            self._save()  # in the end nothing more is trained, and what was saved before is enough
            raise
        if self.config.checkpoint.keep_best and self.validation.best != before:
            self._save()

    def _branch(self) -> None:
        """The next smaller budget's outcome; a run that is stopped meanwhile goes on from here."""
        self.readout.read(self.clock)
        try:
            self.ladder.branch(self)
        except Stopped:
            self._save()
            raise

    def agree(self) -> None:
        """Go by rank 0's clock, and stop where any rank is asked to: all that is due follows from these two.

        Whether memory ran out is agreed on apart: it must be known before the gradients are averaged, but the clock
        only after the step.
        """
        reading = self.clock.reading if self.group.rank == 0 else (0.0, 0.0)
        seconds, step_seconds, stop = self.group.largest(*reading, self.should_stop())
        self.clock.reading = seconds, step_seconds
        self.stop_asked = bool(stop)

    def _moment(self) -> dict[str, Any]:
        return {"step": self.clock.step, "tokens": self.clock.tokens, "seconds": self.clock.seconds}

    def _off_the_clock(self, action: Callable[[], None]) -> None:
        self.clock.pause()
        self.agree()
        action()
        self.clock.resume()

    def _warm_up(self) -> None:
        """Untimed steps that compile and allocate, undone to the bit: fresh optimisers, the same weights.

        Once a process for each shape: what was compiled serves every depth.
        """
        if self._shape() in _warmed:
            return
        put_back = snapshot.keep(self.model, self.optimizers, self.phases.batches, self.device)
        with device.uncollected():
            for _ in range(self.config.runtime.warmup_steps):
                with self.weights.in_training(progress=1.0):
                    self.accumulator.run()
                self.optimizers.step(lr_factor=1.0, momentum=self.config.optim.momentum)
            for validator in (self.validation.rung, self.validation.final):
                validator.warm_up(self.model)
        put_back()
        _warmed.add(self._shape())

    def _shape(self) -> Hashable:
        sequences = self.accumulator.micro_sequences
        return self.model.graph_key, self.config.data.seq_len, sequences, self.config.runtime

    def _next_phase(self) -> None:
        """Keep the end of the phase before, and go over to the one that the coming step belongs to."""
        index = self.phases.following(self.clock.step)
        assert index is not None, "there is another phase"
        if index:
            self._save(ended=self.phases.name)
            if (own := self.phases.own_corpus()) is not None:
                self.validation.on_own_text(self.model, self.phases.name, own)
        phase = self.phases.enter(index)
        self._take_up_phase()
        if phase.optimizer == "reset" and index:
            self.optimizers = Optimizers(self.model, self.config.optim, self.group)
        self.emit(events.Phase(name=phase.name, index=index, **self._moment()))

    def _take_up_phase(self) -> None:
        self.accumulator.batches = self.phases.batches
        self.model.set_dropout(self.phases.dropout)

    def _save(self, ended: str = "") -> None:
        """Write a checkpoint where they are on; `ended` names the phase whose end it is."""
        if not self.config.checkpoint.path:
            return
        self.readout.read(self.clock)
        random = self.group.everyone(checkpoint.random_state(self.device))
        if self.group.rank == 0:
            wanted, state = self.config.checkpoint, self._state() | {"random": checkpoint.random_states(random)}
            checkpoint.save(wanted, state, step=self.clock.step, phase=ended, val_bpb=self.validation.latest)
        self._saved_at = self.clock.seconds

    def _state(self) -> dict[str, Any]:
        """For a checkpoint, beside the random states: the same on every rank, so that any number can go on from it."""
        return {
            "config": self.config.to_dict(),
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state(),
            "weights": self.weights.state(),
            "ladder": self.ladder.state(),
            "phases": self.phases.state(),
            "clock": self.clock.state(),
            "divergence": self.readout.divergence.state(),
            "validation": self.validation.state(),
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
        if "ladder" in state:
            self.ladder.restore(state["ladder"])
        if "phases" in state:
            self.phases.restore(state["phases"])
            self.validation.restore(state["validation"])
        else:  # of an earlier version
            self.phases.batches.position = state["position"]
            self.validation.done = state["evaluations_done"]
        self._take_up_phase()
        self.clock.restore(state["clock"])
        self.readout.divergence.restore(state["divergence"])
        checkpoint.restore_rank(state["random"], self.group.rank, self.device)
        self._saved_at = self.clock.seconds
        self.readout.curve.begin(self.clock)
        return self.clock.step
