"""How long a step takes on a device: by the study's own runs on it, or by what `sweeper bench` measured there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from sweeper.errors import SweeperError
from sweeper.observations_fits import Fits
from sweeper.observations_read import FitsStore
from sweeper.observations_recipe import recipe
from sweeper.scaling.step_time import StepTime, fit_step_time
from sweeper.tables import RunRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """A budget in hours on a device whose speed is known."""

    hours: float
    device: str
    step_time: StepTime

    @property
    def seconds(self) -> float:
        return 3600 * self.hours

    def tokens(self, run: RunRow) -> int:
        """What the hours hold of a run's own model and batch, in whole steps.

        Raises:
            SweeperError: the run does not say how deep its model is, or how large its batch; or no step fits.
        """
        own = recipe(run.params, run.config, run.parameters)
        if own.depth is None or own.batch_tokens is None:
            raise SweeperError(f"trial {run.number} does not say its depth and batch, which hours need: use --tokens")
        steps = int(self.seconds / self.step_time.seconds(own.depth, own.batch_tokens).value)
        if steps < 1:
            raise SweeperError(f"{self.hours:g} hours are less than one step on {self.device}; ask for more")
        return steps * round(own.batch_tokens)


def clock(store: FitsStore, fits: Fits, hours: float, gpu: str | None) -> Clock:
    """The hours on the device that `gpu` is a part of the name of, in any case; None is that of most trials.

    Raises:
        SweeperError: hours that are not positive, or nobody knows how fast the device is.
    """
    if not (np.isfinite(hours) and hours > 0):
        raise SweeperError(f"--hours must be positive, got {hours:g}")
    usual = Counter(fits.trials.devices).most_common(1)
    wanted = gpu if gpu is not None else (usual[0][0] if usual else "")
    with fits.lock:
        known = fits.step_times
    for device, (_, law) in known.items():
        if wanted.lower() in device.lower() and isinstance(law, StepTime):
            return Clock(hours=hours, device=device, step_time=law)
    widths = fits.trials.width[np.isfinite(fits.trials.width)]
    rows = store.benched(wanted, float(np.median(widths)) if len(widths) else None)
    if len(rows) >= 2:
        law = fit_step_time([r[1] for r in rows], [r[2] for r in rows], [r[3] for r in rows])
        if isinstance(law, StepTime):
            return Clock(hours=hours, device=rows[0][0], step_time=law)
    devices = ", ".join(sorted(known)) or "none"
    bench = f"measure it there with `sweeper bench --study {fits.study.name}`"
    do = "import runs that state seconds, steps and depth" if fits.study.foreign else bench
    raise SweeperError(
        f"how fast {wanted or 'the device'} trains is not known: trials ran on {devices}; {do}, or say the length with "
        "--tokens"
    )
