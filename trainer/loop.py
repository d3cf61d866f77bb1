"""train(config, emit, should_stop): one run from its config to its last event.  The page to read first."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer import accumulate, checkpoint, device, events
from trainer.config import ConfigError, TrainConfig
from trainer.data import DataError
from trainer.run import Diverged, Emit, Run, Stopped


def train(config: TrainConfig, emit: Emit, should_stop: Callable[[], bool]) -> None:
    """Train one model on one budget.

    Emits Start, then Step, Eval and Notice as they come, Outcome if the budget is reached, and ends with
    exactly one End or Failure. Nothing is raised for what an event can say.

    Args:
        config: of the run.
        emit: is given every event, on the calling thread.
        should_stop: asked at least once a step; True ends the run within one step.
    """
    began = time.perf_counter()
    run: Run | None = None
    try:
        run = Run(config, emit, should_stop)
        with device.fast_attention(run.device):
            run.prepare(began)
            run.to_the_end()
        reason, detail = "complete", ""
    except Stopped:
        reason, detail = "stopped", ""
    except Diverged as error:
        reason, detail = "diverged", str(error)
    except ConfigError as error:
        return emit(events.Failure(reason="config", message=str(error)))
    except DataError as error:
        return emit(events.Failure(reason="data", message=str(error)))
    except checkpoint.CheckpointError as error:
        return emit(events.Failure(reason="checkpoint", message=str(error)))
    except accumulate.OutOfMemory as error:
        return emit(events.Failure(reason="out_of_memory", message=str(error)))
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
        )
    )
