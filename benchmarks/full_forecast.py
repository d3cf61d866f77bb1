"""How well the rest of real runs is foretold under their schedules, by five ways, and when an alarm fires.

python -m benchmarks.full_forecast

On the packaged studies: trials of 27 seconds, each foretold from the others; and runs of 108 seconds (4.6 times their
tokens), foretold from those trials.  Training losses, natural-log errors at the end, from 30, 50 and 70 % of the run.
An alarm is tried by raising all losses after 45 % of a run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from sweeper import archive, examples
from sweeper.full_bands import Course, binned
from sweeper.full_forecast import FullForecast, full_forecast
from sweeper.full_forecast_read import LIKE_RATES, MOST_PEERS
from sweeper.run_records import Outcome, RunPoints
from sweeper.saturation import CurveLaw, fit_curve
from sweeper.scaling.annealing import AnnealingForecast, AnnealingLaw, fit_annealing
from sweeper.scaling.annealing_data import Annealed
from sweeper.scaling.forecast import Curve, forecast_final
from sweeper.scaling.rates import trapezoid
from sweeper.scaling.records import Array, Estimate, Unidentified

SHARES = (0.3, 0.5, 0.7)
RAISED_FROM, RAISED_BY = 0.45, (0.03, 0.06, 0.1)
LAST = 0.95
"""Share of the run from which on losses are averaged to its end."""
EARLY = 0.03

Told = Estimate | None


@dataclass(frozen=True)
class Row:
    """One way of foretelling on one set of runs."""

    way: str
    data: str
    share: float
    runs: int
    mae: float
    bias: float
    inside: float
    """Share of ends in their 95 % band."""


def courses(name: str) -> list[Course]:
    """The runs of a packaged study."""
    return [_course(run) for run in archive.read(examples.find(name).path)[1]]


def _course(run: archive.ArchivedRun) -> Course:
    columns: dict[str, list[float]] = {field.name: [] for field in dataclasses.fields(RunPoints)}
    outcomes = []
    for event in run.events:
        if event["event"] in ("step", "eval"):
            for name, column in columns.items():
                value = event.get(name)
                column.append(math.nan if value is None else float(value))
        elif event["event"] == "outcome":
            said = {key: event[key] for key in ("budget", "step", "tokens", "seconds", "val_loss", "val_bpb")}
            outcomes.append(Outcome(**said, stderr=None, branch_seconds=0.0))
    points = RunPoints(**{name: np.array(column) for name, column in columns.items()})
    placed = dataclasses.replace(points, tokens=points.progress * run.tokens)
    name = f"trial {run.number}"
    return Course(name=name, config=run.config, points=placed, tokens=float(run.tokens), outcomes=tuple(outcomes))


def near(run: Course, others: Sequence[Course]) -> list[Course]:
    """As full_forecast_read picks peers."""

    def far(other: Course) -> float:
        return abs(math.log(_rate(other) / _rate(run)))

    same = [
        o for o in others if o is not run and o.config["data"]["batch_tokens"] == run.config["data"]["batch_tokens"]
    ]
    return sorted((o for o in same if far(o) <= math.log(LIKE_RATES)), key=far)[:MOST_PEERS]


def _rate(run: Course) -> float:
    return float(run.config["optim"]["matrix_lr"])


def _train(run: Course, share: float = 1.0) -> tuple[Array, Array]:
    """Tokens and binned training losses up to a share."""
    seen = np.isfinite(run.points.train_loss) & (run.points.tokens > EARLY * run.tokens)
    seen &= run.points.tokens <= share * run.tokens
    at, loss, _ = binned(run.points.tokens[seen], run.points.train_loss[seen], run.tokens)
    return at, loss


def end(run: Course) -> float:
    at, loss = _train(run)
    return float(loss[at > LAST * run.tokens].mean())


def by_present(run: Course, peers: Sequence[Course], share: float, every: Sequence[Course]) -> Told:
    """Slope in log progress among all runs of that batch."""
    same = [o for o in every if o is not run and o.config["data"]["batch_tokens"] == run.config["data"]["batch_tokens"]]

    def curve(one: Course, upto: float) -> Curve:
        at, loss = _train(one, upto)
        fraction = at / one.tokens
        return Curve(np.append(fraction[:-1], upto), np.append(loss[:-1], end(one) if upto == 1 else loss[-1]))

    return forecast_final(curve(run, share), [curve(one, 1.0) for one in same]).final


def by_power(run: Course, peers: Sequence[Course], share: float, every: Sequence[Course]) -> Told:
    """floor + scale x tokens^-exponent of its own curve, blind to the schedule."""
    law = fit_curve(*_train(run, share))
    if not isinstance(law, CurveLaw):
        return None
    central, low, high = law.band([run.tokens])
    return Estimate(float(central[0]), float(low[0]), float(high[0]))


def _annealed(run: Course, share: float) -> Annealed:
    return Annealed(trapezoid(1.0, run.tokens, cooldown=run.config["schedule"]["warmdown"]), *_train(run, share))


def _multi_power(run: Course, peers: Sequence[Course], share: float) -> AnnealingForecast | None:
    return _fitted(run, tuple(peers[:4]), share)


@cache
def _fitted(run: Course, peers: tuple[Course, ...], share: float) -> AnnealingForecast | None:
    own = _annealed(run, share)
    law = fit_annealing([*(_annealed(peer, 1.0) for peer in peers), own], starts=4, draws=40)
    told = law.predict(own.rates, [run.tokens]) if isinstance(law, AnnealingLaw) else law
    return None if isinstance(told, Unidentified) else told


def by_own(run: Course, peers: Sequence[Course], share: float, every: Sequence[Course]) -> Told:
    """The Multi-Power Law on its own curve."""
    told = _multi_power(run, [], share)
    return None if told is None else told.end


def by_multi_power(run: Course, peers: Sequence[Course], share: float, every: Sequence[Course]) -> Told:
    """The Multi-Power Law on its own curve and those of the four nearest peers, rates over their peaks."""
    told = _multi_power(run, peers, share)
    return None if told is None else told.end


def by_tissue(run: Course, peers: Sequence[Course], share: float, every: Sequence[Course]) -> Told:
    """The three-term law on the same, which has no band of its own."""
    told = _multi_power(run, peers, share)
    return None if told is None else Estimate(float(told.tissue_m[-1]), math.nan, math.nan)


def by_full_forecast(run: Course, peers: Sequence[Course], share: float, every: Sequence[Course]) -> Told:
    """What the product does: three terms with deviations of each run, widened by back-tests."""
    band = next((band for band in foretold(run, peers).bands if band.share == share), None)
    return None if band is None else band.end


WAYS: tuple[Callable[[Course, Sequence[Course], float, Sequence[Course]], Told], ...] = (
    *(by_power, by_present, by_own, by_multi_power, by_tissue, by_full_forecast),
)  # fmt: skip


def foretold(run: Course, peers: Sequence[Course]) -> FullForecast:
    return _foretold(run, tuple(peers))


@cache
def _foretold(run: Course, peers: tuple[Course, ...]) -> FullForecast:
    blind = dataclasses.replace(run.points, val_loss=np.full(len(run.points.step), math.nan))
    return full_forecast(dataclasses.replace(run, points=blind), peers, "", lambda said, columns, make: make())


def rows() -> Iterator[Row]:
    ladder, grid = courses("ladder-h200"), courses("grid-h200")
    for name, runs in (("27 s from each other", ladder), ("108 s from 27 s", grid)):
        for way in WAYS:
            for share in SHARES:
                told = [(end(run), way(run, near(run, ladder), share, ladder)) for run in runs]
                yield _row(way.__name__.removeprefix("by_"), name, share, [(e, t) for e, t in told if t is not None])


def _row(way: str, name: str, share: float, told: Sequence[tuple[float, Estimate]]) -> Row:
    if not told:
        return Row(way, name, share, 0, math.nan, math.nan, math.nan)
    off = np.array([math.log(e / t.value) for e, t in told])
    inside = np.mean([math.nan if math.isnan(t.low) else float(t.low <= e <= t.high) for e, t in told])
    return Row(way, name, share, len(told), float(np.abs(off).mean()), float(off.mean()), float(inside))


def points_inside(runs: Sequence[Course], ladder: Sequence[Course]) -> dict[str, float]:
    """Over all judged points the share inside; runs with an alarm at some time, as they are and raised."""
    found: dict[str, Any] = {"points inside": [], "ever an alarm": []} | {f"raised by {by:.0%}": [] for by in RAISED_BY}
    for run in runs:
        peers = near(run, ladder)
        whole = foretold(run, peers)
        found["points inside"] += list(_inside(whole))
        found["ever an alarm"].append(ever_alarmed(run, peers))
        for by in RAISED_BY:
            factor = np.where(run.points.tokens > RAISED_FROM * run.tokens, 1 + by, 1.0)
            raised = dataclasses.replace(run.points, train_loss=run.points.train_loss * factor)
            found[f"raised by {by:.0%}"].append(ever_alarmed(dataclasses.replace(run, points=raised), peers))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _inside(told: FullForecast) -> Iterator[bool]:
    for at, loss in zip(told.tokens_n, told.loss_n, strict=True):
        band = next(b for b in reversed(told.bands) if b.tokens_m[0] < at or b is told.bands[0])
        low, high = (float(np.interp(at, band.tokens_m, bound)) for bound in (band.low_m, band.high_m))
        yield low <= loss <= high


def ever_alarmed(run: Course, peers: Sequence[Course]) -> bool:
    """Whether an alarm stood at any time while the run went on."""
    told = foretold(run, peers)
    return told.alarm or bool(told.before)


def main() -> None:
    for row in rows():
        print(
            f"{row.data:<22} {row.way:<14} from {row.share:.0%}  {row.runs:>2} runs  MAE {row.mae:.4f}  "
            f"bias {row.bias:+.4f}  ends inside {row.inside:.2f}"
        )
    ladder, grid = courses("ladder-h200"), courses("grid-h200")
    for name, runs in (("27 s", ladder), ("108 s", grid)):
        print(name, {key: round(value, 3) for key, value in points_inside(runs, ladder).items()})


if __name__ == "__main__":
    main()
