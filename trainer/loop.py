"""train(config, emit, should_stop): one run from its config to its last event.  The page to read first."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer import accumulate, checkpoint, device, events
from trainer.config import ConfigError, TrainConfig
from trainer.data import DataError
from trainer.distributed import ALONE, Group
from trainer.divergence import Diverged
from trainer.run import Emit, Run
from trainer.validation import Stopped

FAILURES: dict[type[Exception], str] = {
    ConfigError: "config",
    DataError: "data",
    checkpoint.CheckpointError: "checkpoint",
    accumulate.OutOfMemory: "out_of_memory",
}
"""What cannot be the fault of a trial's values, and the reason that the Failure gives."""


def train(config: TrainConfig, emit: Emit, should_stop: Callable[[], bool], group: Group = ALONE) -> None:
    """Train one model on one budget, on every rank of `group` at once.

    Emits Start, then Step, Eval and Notice as they come, Outcome if the budget is reached, and ends with
    exactly one End or Failure. Nothing is raised for what an event can say.

    Args:
        config: of the run.
        emit: is given every event, on the calling thread.
        should_stop: asked at least once a step; True, on any rank, ends the run within one step.
        group: the processes that share the run; each is given the events, as rank 0 should say them.
    """
    began = time.perf_counter()
    run: Run | None = None
    try:
        run = group.together(lambda: Run(config, emit, should_stop, group), tuple(FAILURES))
        with device.fast_attention(run.device):
            run.prepare(began)
            run.to_the_end()
        reason, detail = "complete", ""
    except Stopped:
        reason, detail = "stopped", ""
    except Diverged as error:
        reason, detail = "diverged", str(error)
    except tuple(FAILURES) as error:
        return emit(events.Failure(reason=FAILURES[type(error)], message=str(error)))
    assert run is not None
    return emit(
        events.End(
            reason=reason,
            step=run.clock.step,
            tokens=run.clock.tokens,
            seconds=run.clock.seconds,
            wall_seconds=time.perf_counter() - began,
            peak_memory_bytes=device.peak_memory_bytes(run.device),
            detail=detail,
            targets=run.phases.targets,
        )
    )
