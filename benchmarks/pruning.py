"""What pruning would have cost: complete trials, pruned again in many orders, on raw values and on forecasts.

    sweeper export --study S --format csv --out FOLDER/S        # a study with pruner = { type = "none" }
    python -m benchmarks.pruning --data FOLDER

Each folder in FOLDER (or FOLDER itself) that holds a curves.csv and a trials.csv is a set.  A replay takes `--trials`
of its complete trials in random order, one after another, judges each at the rungs among those before it as the service
does, and notes by how much the best of those that went on is worse than the best of all.  Lost: by more than
`--tolerance` bits per byte.  Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sweeper.pruners import outside_best
from sweeper.scaling.forecast import Curve, forecast_all
from sweeper.scaling.records import Unidentified


@dataclass(frozen=True)
class Row:
    """One rule on one set of trials."""

    data: str
    trials: int
    rule: str
    compute: float
    """Share of what all trials to their end would have taken."""
    regret: float
    """Mean, bits per byte."""
    lost: float
    """Share of replays."""


@dataclass(frozen=True)
class Rule:
    on: str
    factor: int
    rungs: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.on}, best 1/{self.factor} at " + ", ".join(f"{100 * rung:.0f} %" for rung in self.rungs)


RULES = [Rule(on, factor, rungs) for factor in (2, 3) for rungs in ((0.3, 0.6), (0.6,)) for on in ("raw", "forecast")]


def read(folder: Path) -> list[Curve]:
    """Curves of the complete trials, each ended by its final score where it has none at the end."""
    with (folder / "trials.csv").open(newline="") as file:
        complete = {row["number"] for row in csv.DictReader(file) if row["state"] == "complete"}
    points: dict[str, dict[float, float]] = defaultdict(dict)
    with (folder / "curves.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] == "trial" and row["val_bpb"] and row["number"] in complete:
                points[row["number"]][float(row["fraction"] or row["progress"])] = float(row["val_bpb"])
    curves = [Curve(*np.array(sorted(own.items())).T) for own in points.values()]
    return [curve for curve in curves if curve.finished]


def replay(curves: Sequence[Curve], rule: Rule) -> tuple[float, float]:
    """Compute as a share, and regret, of trials in this order."""
    reached: dict[float, dict[int, Curve]] = {rung: {} for rung in rule.rungs}
    finished: dict[int, Curve] = {}
    spent = 0.0
    for number, curve in enumerate(curves):
        share = 1.0
        for rung in rule.rungs:
            kept = curve.fraction_m <= rung + 1e-6
            reached[rung][number] = Curve(curve.fraction_m[kept], curve.loss_m[kept])
            values = _values(rule.on, number, reached[rung], finished)
            if outside_best(values[number], values, rule.factor):
                share = rung
                break
        else:
            finished[number] = curve
        spent += share
    best = min(curve.loss_m[-1] for curve in curves)
    kept_best = min((curve.loss_m[-1] for curve in finished.values()), default=np.inf)
    return spent / len(curves), float(kept_best - best)


def _values(on: str, number: int, reached: Mapping[int, Curve], finished: Mapping[int, Curve]) -> Mapping[int, float]:
    if on == "forecast":
        found = forecast_all(reached, finished)
        if not isinstance(found, Unidentified) and number in found:
            return found
    return {number: float(curve.loss_m[-1]) for number, curve in reached.items()}


def rows(name: str, curves: Sequence[Curve], trials: int, repeats: int, tolerance: float) -> Iterator[Row]:
    size = min(trials, len(curves))
    for rule in RULES:
        random = np.random.default_rng(0)
        orders = [[curves[k] for k in random.permutation(len(curves))[:size]] for _ in range(repeats)]
        told = np.array([replay(order, rule) for order in orders])
        lost = float((told[:, 1] > tolerance).mean())
        yield Row(name, size, str(rule), float(told[:, 0].mean()), float(told[:, 1].mean()), lost)


def main() -> None:
    parser = argparse.ArgumentParser(description="What pruning would have cost, on raw values and on forecasts.")
    parser.add_argument("--data", type=Path, required=True, help="folder of exports; see the module's docstring")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--tolerance", type=float, default=0.002, help="bits per byte")
    given = parser.parse_args()
    folders = sorted(path.parent for path in given.data.rglob("curves.csv"))
    if not folders:
        parser.error(f"there is no curves.csv below {given.data}")
    found = [row for f in folders for row in rows(f.name, read(f), given.trials, given.repeats, given.tolerance)]
    for row in found:
        print(
            f"{row.data:<16} {row.trials:>4} trials  {row.rule:<36} compute {row.compute:.2f}  "
            f"regret {row.regret:.4f}  lost {row.lost:.1%}"
        )
    print(json.dumps([asdict(row) for row in found]))


if __name__ == "__main__":
    main()
