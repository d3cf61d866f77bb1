"""Which phase of its plan a run is in, and what that means for rates and data.  A run without a plan is one phase."""

from __future__ import annotations

import bisect
import dataclasses
from typing import Any

import torch

from trainer import schedule
from trainer.batches import TrainBatches, batches_for
from trainer.config import PhaseConfig, PlanConfig, TrainConfig
from trainer.data import Corpus, DataError, corpus_for

Source = tuple[str, str, str]
MOST_EPOCHS = 4
"""Repetitions of the data that cost next to nothing (Muennighoff et al. 2023, arXiv:2305.16264)."""


class Phases:
    """The run's place in its plan. Phases with the same data go on in one order: none sees a window again.

    Args:
        config: of the run.
        device: that batches are wanted on.

    Raises:
        DataError: a phase's data is missing, damaged, or less than the plan takes from it.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._plan = config.plan.phases
        self._ends = config.plan.ends(config.data.batch_tokens)
        self._left: dict[Source, tuple[int, int]] = {}
        self._told_of_repetition = False
        self.index = -1
        """Of the phase that the run is in; -1 before the first, and without a plan."""
        self._check_data()
        self.batches = self._open()

    @property
    def name(self) -> str:
        """Of the phase that the run is in; empty where there is none."""
        return self._plan[self.index].name if self.index >= 0 else ""

    @property
    def dropout(self) -> float | None:
        """Of the phase that the run is in; None for the model's own."""
        return self._plan[self.index].dropout if self.index >= 0 else None

    def following(self, step: int) -> int | None:
        """Index of the phase that the step after `step` belongs to, where that is not the present one."""
        index = bisect.bisect_right(self._ends, step)
        return index if self.index < index < len(self._ends) else None

    def enter(self, index: int) -> PhaseConfig:
        """Go over to a phase; `batches` are then its own."""
        source, self.index = self._source, index
        if self._source != source:
            self._left[source] = self._used()
            self.batches = self._open()
            self.batches.position = self._left.pop(self._source, (0, 0))[0]
        return self._plan[index]

    def lr_factor(self, step: int, progress: float, warming: float) -> float:
        """Share of the peak rates for the step after `step`; without a plan it is `progress` of the run that counts,
        and for its warm-up `warming`."""
        if not self._plan:
            return schedule.lr_factor(self._config.schedule, progress, warming)
        index = min(bisect.bisect_right(self._ends, step), len(self._ends) - 1)
        begin = self._ends[index - 1] if index else 0
        return self._plan[index].lr_factor((step + 0.5 - begin) / (self._ends[index] - begin))

    @property
    def targets(self) -> int | None:
        """Targets trained so far; None where every position has one."""
        if all(windows == "stream" for _, _, windows in (*self._left, self._source)):
            return None
        return self._used()[1] + sum(targets for _, targets in self._left.values())

    def remark(self) -> str:
        """What a reader of the run should know about its data by now, once; else empty."""
        epoch = self.batches.epoch
        if epoch < MOST_EPOCHS or self._told_of_repetition:
            return ""
        self._told_of_repetition = True
        return (
            f"the training tokens are being repeated for the {epoch}th time: the model now memorises them, and val_bpb "
            "says little about rates; use a larger data set or a smaller budget"
        )

    def own_corpus(self) -> Corpus | None:
        """The data of the present phase, where it is another folder than the run's."""
        if self.index < 0 or not self._plan[self.index].data:
            return None
        return corpus_for(self._config_of(self._source), self._device)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        left = [[*source, *used] for source, used in self._left.items()]
        return {"index": self.index, "position": self.batches.position, "left": left}

    def restore(self, state: dict[str, Any]) -> None:
        source, self.index = self._source, state["index"]
        self._left = {(row[0], row[1], row[2]): (row[3], row[4]) for row in state["left"]}
        if self._source != source:
            self.batches = self._open()
        self.batches.position = state["position"]

    @property
    def _source(self) -> Source:
        if self._plan:
            return self._plan[max(self.index, 0)].source
        return "", self._config.data.split, self._config.data.windows

    def _used(self) -> tuple[int, int]:
        """Windows and targets that the present source has given."""
        windows, targets = self.batches.position, self.batches.targets
        return windows, windows * self._config.data.seq_len if targets is None else targets

    def _config_of(self, source: Source) -> TrainConfig:
        folder, split, windows = source
        data = dataclasses.replace(
            self._config.data,
            path=folder or self._config.data.path,
            split=split,  # type: ignore[arg-type]  # of a checked config
            windows=windows,  # type: ignore[arg-type]
        )
        return dataclasses.replace(self._config, data=data, plan=PlanConfig())

    def _open(self) -> TrainBatches:
        config = self._config_of(self._source)
        return batches_for(corpus_for(config, self._device), config)

    def _check_data(self) -> None:
        """Open every source once, so that what cannot work is known before anything is trained."""
        taken: dict[Source, int] = {}
        data, begin = self._config.data, 0
        for phase, end in zip(self._plan, self._ends, strict=True):
            taken[phase.source] = taken.get(phase.source, 0) + (end - begin) * data.batch_tokens // data.seq_len
            begin = end
        host = torch.device("cpu")
        for source, windows in taken.items():
            config = self._config_of(source)
            there = len(batches_for(corpus_for(config, host, resident=False), config)) - data.start_window
            if windows > there and not self._config.plan.repeat_data:
                names = ", ".join(phase.name for phase in self._plan if phase.source == source)
                raise DataError(
                    f"{names} would take {windows * data.seq_len:,} tokens, but the {source[1]} split of "
                    f"{config.data.path!r} has {there} windows, {there * data.seq_len:,} tokens; prepare more text, "
                    "plan fewer tokens, or let the plan repeat it (repeat_data = true)"
                )
