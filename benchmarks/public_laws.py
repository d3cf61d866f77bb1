"""Our fits of published sweeps beside the figures that they must reach.

    python -m benchmarks.public_laws --data FOLDER

FOLDER holds what you obtained of these; one that is missing is skipped, Step Law's and the curves replaced by replicas:

    chinchilla_epoch/points.csv     n_params, flops, loss: Besiroglu et al. (arXiv:2404.10102), all 245 points
    misfitting/runs.csv             n_params, steps, learning_rate, loss: Li et al. (arXiv:2502.18969)
    steplaw/dense_lr_bs_loss.csv    as released (N, D, lr, bs, "smooth loss"): Li et al. (arXiv:2503.04715)
    multipower/csv_*/*.csv          step, lr, loss, a file a schedule, a folder a model: Luo et al. (arXiv:2503.12811)
    isoflop/*.csv                   n_params, flops, loss: approach 2 on any, exponent printed without a threshold

The data are their authors'; none of it ships.  Prints a table and a JSON line; exits with 1 if a threshold is missed.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import LinearNDInterpolator

from benchmarks import annealed_curves
from sweeper.scaling import priors
from sweeper.scaling.budgets import fit_iso_budget
from sweeper.scaling.decay import fit_tau_law
from sweeper.scaling.grouping import best_of_cells, cells
from sweeper.scaling.loss_law import LossLaw, fit_loss_law
from sweeper.scaling.optimum import Optimum, fit_optimum
from sweeper.scaling.power_law import PowerLaw, fit_power_law, law_of_optima
from sweeper.scaling.records import Array, Integers, Observations, observations
from sweeper.scaling.shading import excess

SEQUENCE = 2048
MISFITTING_BATCH = 1_048_576.0
SEED_NOISE_NATS = 0.0014


@dataclass(frozen=True)
class Row:
    """One figure against what it must be."""

    data: str
    figure: str
    value: float
    low: float
    high: float

    @property
    def held(self) -> bool:
        return self.low <= self.value <= self.high


def read(path: Path) -> dict[str, Array]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name and _is_number(rows[0][name])]
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def chinchilla(folder: Path) -> Iterator[Row]:
    data = read(folder / "chinchilla_epoch" / "points.csv")
    kept = data["loss"] < np.sort(data["loss"])[-5]
    n, flops, loss = (data[name][kept] for name in ("n_params", "flops", "loss"))
    sizes = {"n_params": n, "tokens": flops / 6 / n}
    law = fit_loss_law(loss, sizes)
    assert isinstance(law, LossLaw) and law.floor is not None
    name = f"chinchilla, {law.used} points"
    yield Row(name, "E", law.floor.value, 1.815, 1.819)
    yield Row(name, "alpha", law.exponents["n_params"].value, 0.345, 0.349)
    yield Row(name, "beta", law.exponents["tokens"].value, 0.365, 0.369)
    yield Row(name, "objective", law.objective, 0.0, 0.0010185)
    k = len(law.theta_p) - 2
    spreads = [float(np.exp(law.draws_Dp[:, 0]).std()), *(float(law.draws_Dp[:, k + i].std()) for i in (0, 1))]
    for what, value, wanted in zip(("E", "alpha", "beta"), spreads, (0.025, 0.0152, 0.0200), strict=True):
        yield Row(name, f"bootstrap SE of {what}", value, 0.75 * wanted, 1.25 * wanted)
    early = flops < 6e20
    part = fit_loss_law(loss[early], {what: column[early] for what, column in sizes.items()}, draws=100)
    assert isinstance(part, LossLaw)
    predicted, _, _ = part.predict({what: column[~early] for what, column in sizes.items()})
    yield Row(name, "held out from 6e20 FLOPs: MAPE", float(np.abs(predicted / loss[~early] - 1).mean()), 0.0, 0.0115)


def misfitting(folder: Path) -> Iterator[Row]:
    data = read(folder / "misfitting" / "runs.csv")
    runs = observations(**data, batch_tokens=MISFITTING_BATCH, loss_stderr=SEED_NOISE_NATS)
    runs = runs.take(runs.steps >= 2000)
    groups = cells(runs)
    optima = [fit_optimum(runs.take(rows), fewest=3, trust_edges=True) for rows in groups]
    first = [rows[0] for rows in groups]
    sizes = {"n_params": runs.n_params[first], "steps": runs.steps[first]}
    law = law_of_optima(optima, sizes, "learning_rate", beliefs=priors.flat(tuple(sizes)))
    assert isinstance(law, PowerLaw)
    name = f"misfitting, {law.used} of {len(groups)} cells"
    yield Row(name, "rate on N", law.exponents["n_params"].value, -0.46, -0.38)
    yield Row(name, "rate on S, lower bound", law.exponents["steps"].low, -0.3, -0.07)
    yield Row(name, "rate on S, upper bound", law.exponents["steps"].high, -0.07, 0.3)
    yield Row(name, "R2", law.r_squared, 0.94, 1.0)


def seed_points() -> Iterator[Row]:
    steps = {"steps": [2000.0, 5000.0, 8000.0]}
    rate, decay = np.array([0.06, 0.035, 0.03]), np.array([0.04, 0.025, 0.02])
    tau = 1 / (rate * decay * np.array(steps["steps"]))
    yield Row("PR 393, 3 points", "rate on S", fit_power_law(rate, steps).exponents["steps"].value, -0.53, -0.49)
    yield Row("PR 393, 3 points", "decay on S", fit_power_law(decay, steps).exponents["steps"].value, -0.52, -0.48)
    yield Row("PR 393, 3 points", "least tau", float(tau.min()), 0.208, 0.229)
    yield Row("PR 393, 3 points", "greatest tau", float(tau.max()), 0.208, 0.229)
    literature = fit_tau_law([], np.ones(1)).predict({"tokens_per_param": 29.0})
    yield Row("PR 393, 3 points", "tau a priori at 29 tokens a parameter", literature.value, 0.1, 0.3)


def steplaw(folder: Path) -> Iterator[Row]:
    path = folder / "steplaw" / "dense_lr_bs_loss.csv"
    if path.exists():
        data = read(path)
        columns = (data[name] for name in ("N", "D", "lr", "bs", "smooth loss"))
        name = "Step Law"
    else:
        columns, name = iter(replica()), "Step Law REPLICA"
    n, d, rate, sequences, loss = columns
    runs = observations(n_params=n, tokens=d, learning_rate=rate, batch_tokens=sequences * SEQUENCE, loss=loss)
    groups = cells(runs, by=("n_params", "tokens"))
    optima = [fit_optimum(runs.take(rows), ("learning_rate", "batch_tokens")) for rows in groups]
    first = [rows[0] for rows in groups]
    both = {"n_params": runs.n_params[first], "tokens": runs.tokens[first]}
    rates = law_of_optima(optima, both, "learning_rate", beliefs={})
    batches = law_of_optima(optima, {"tokens": both["tokens"]}, "batch_tokens", beliefs={})
    assert isinstance(rates, PowerLaw) and isinstance(batches, PowerLaw)
    name = f"{name}, {rates.used} of {len(groups)} cells"
    yield Row(name, "batch on D", batches.exponents["tokens"].value, 0.54, 0.60)
    yield Row(name, "rate on N", rates.exponents["n_params"].value, -0.76, -0.64)
    yield Row(name, "rate on D", rates.exponents["tokens"].value, 0.16, 0.26)
    yield Row(name, "R2 of the rate", rates.r_squared, 0.94, 1.0)
    yield Row(name, "R2 of the batch", batches.r_squared, 0.94, 1.0)
    yield from _regrets(name, runs, groups, rates, batches)
    if path.exists():
        yield from _near_optimal(name, runs, groups)
    yield from _three_terms(name, runs)
    yield Row(name, "left-out cells in their interval", _left_out(optima, both), 0.80, 1.0)


def _regrets(
    name: str, runs: Observations, groups: list[Integers], rates: PowerLaw, batches: PowerLaw
) -> Iterator[Row]:
    lost, copied = [], []
    small = runs.take(groups[0])
    best = int(np.argmin(small.loss))
    for rows in groups:
        cell = runs.take(rows)
        surface = LinearNDInterpolator(
            np.log(np.stack([cell.learning_rate, cell.batch_tokens], axis=1)), np.log(cell.loss)
        )
        sizes = {"n_params": cell.n_params[0], "tokens": cell.tokens[0]}
        at = (rates.predict(sizes).value, batches.predict(sizes).value)
        copy = (small.learning_rate[best], small.batch_tokens[best])
        for place, kept in ((at, lost), (copy, copied)):
            kept.append(float(surface(*np.log(place))) - float(np.log(cell.loss.min())))
    yield Row(name, "mean regret of the law, %", 100 * float(np.nanmean(lost)), -0.5, 0.18)
    yield Row(name, "largest regret of the law, %", 100 * float(np.nanmax(lost)), -0.5, 0.40)
    yield Row(name, "mean regret of copying the smallest cell, %", 100 * float(np.nanmean(copied)), 0.4, 5.0)


def _near_optimal(name: str, runs: Observations, groups: list[Integers]) -> Iterator[Row]:
    near = np.concatenate([rows[runs.loss[rows] < runs.loss[rows].min() * 1.0025] for rows in groups])
    rate = fit_power_law(
        runs.learning_rate[near], {"n_params": runs.n_params[near], "tokens": runs.tokens[near]}, scatter_octaves=0.5
    )
    batch = fit_power_law(runs.batch_tokens[near], {"tokens": runs.tokens[near]}, scatter_octaves=0.5)
    yield Row(name, "rows within 0.25 %", float(len(near)), 129, 129)
    yield Row(name, "their rate on N", rate.exponents["n_params"].value, -0.7665, -0.7655)
    yield Row(name, "their rate on D", rate.exponents["tokens"].value, 0.1965, 0.1975)
    yield Row(name, "their batch on D", batch.exponents["tokens"].value, 0.6120, 0.6130)


def _three_terms(name: str, runs: Observations) -> Iterator[Row]:
    best = best_of_cells(runs, cells(runs, by=("n_params", "tokens", "batch_tokens")))
    floor = {key: runs.loss[best][same].min() for key, same in _by_model(runs, best)}
    near = np.array([r for r in best if runs.loss[r] < 1.05 * floor[runs.n_params[r], runs.tokens[r]]])
    sizes = {what: getattr(runs, what)[near] for what in ("n_params", "steps", "batch_tokens")}
    law = fit_loss_law(runs.loss[near], sizes, draws=200)
    if not isinstance(law, LossLaw):
        sys.stderr.write(f"{name}: no three-term law: {law.not_identified}\n")
        return
    exponent = law.best_batch_exponent()
    assert exponent is not None
    yield Row(name, f"three terms, {law.used} rows: MAPE, %", 100 * law.mape, 0.0, 0.45)
    yield Row(name, "three terms: best batch on D", exponent.value, 0.55, 0.68)


def _by_model(runs: Observations, rows: Integers) -> Iterator[tuple[tuple[float, float], Array]]:
    keys = list(zip(runs.n_params[rows], runs.tokens[rows], strict=True))
    for key in set(keys):
        yield key, np.array([other == key for other in keys])


def _left_out(optima: list[Optimum], sizes: dict[str, Array]) -> float:
    """Share of cells whose rate lies in the interval that the other cells predict."""
    found = [k for k, optimum in enumerate(optima) if optimum.at]
    hits = []
    for k in found:
        others = [j for j in found if j != k]
        law = law_of_optima(
            [optima[j] for j in others], {n: c[others] for n, c in sizes.items()}, "learning_rate", beliefs={}
        )
        assert isinstance(law, PowerLaw)
        predicted = law.predict({n: float(c[k]) for n, c in sizes.items()})
        hits.append(predicted.low <= optima[k].at[0].value <= predicted.high)
    return float(np.mean(hits))


def replica(seed: int = 0) -> tuple[Array, Array, Array, Array, Array]:
    """Step Law's design (17 cells, grids by root two) with optima by its law, its skewed bowl, seed noise."""
    random = np.random.default_rng(seed)
    models = (214_663_680, 268_304_384, 429_260_800, 536_872_960, 1_073_741_824)
    cells_of = [(n, d) for n in models for d in (1.14e10, 2.84e10, 1e11)] + [(models[0], 4e9), (models[1], 8e9)]
    rows = []
    for n, d in sorted(cells_of):
        best_rate = 10.6 * n**-0.695 * d**0.208 * 2.0 ** random.normal(0, 0.08)
        best_batch = 0.546 * d**0.569 * 2.0 ** random.normal(0, 0.1)
        for rate in 2.0 ** np.arange(-12.5, -6.4, 0.5):
            for sequences in 2.0 ** np.arange(5, 12):
                x = np.log2(rate / best_rate) - 0.2 * np.log2(sequences * SEQUENCE / best_batch)
                z = np.log2(sequences * SEQUENCE / best_batch)
                rise = float(excess(np.array([x]))[0]) + 0.0045 * z**2 * (1 if z < 0 else 0.9)
                floor = 1.2 + 200 / n**0.285 + 30 / d**0.17
                rows.append((n, d, rate, sequences, floor * np.exp(rise + random.normal(0, 0.0005))))
    n, d, rate, sequences, loss = np.array(rows).T
    return n, d, rate, sequences, loss


def multipower(folder: Path) -> Iterator[Row]:
    folders = sorted((folder / "multipower").glob("csv_*"))
    sets = {f"Multi-Power {path.name}": annealed_curves.read(path) for path in folders}
    inside = []
    for name, curves in (sets or {"Multi-Power REPLICA": annealed_curves.replica()}).items():
        for schedule, longer, mae, held in annealed_curves.errors(curves):
            yield Row(name, f"{schedule}: MAE, nats", mae, 0.0, 0.02 if longer else 0.006)
            inside.append(held)
    yield Row("Multi-Power, all", "ends in their band, share", float(np.mean(inside)), 0.8, 1.0)


def isoflop(folder: Path) -> Iterator[Row]:
    for path in sorted((folder / "isoflop").glob("*.csv")):
        data = read(path)
        found = fit_iso_budget(data["n_params"], data["loss"], data["flops"])
        exponent = found.law.exponents["budget"].value if found.law else np.nan
        yield Row(f"isoflop {path.stem}, {found.used} budgets", "N on C", exponent, -np.inf, np.inf)


def rows_of(folder: Path) -> Iterator[Row]:
    for name, figures in (("chinchilla_epoch", chinchilla), ("misfitting", misfitting)):
        if (folder / name).is_dir():
            yield from figures(folder)
        else:
            print(f"{name}: not in {folder}, skipped")
    yield from seed_points()
    yield from steplaw(folder)
    yield from multipower(folder)
    yield from isoflop(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Our fits of published sweeps beside the figures they must reach.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets; see the module's docstring")
    found = list(rows_of(parser.parse_args().data))
    for row in found:
        verdict = "ok" if row.held else "MISSED"
        print(f"{row.data:<32}  {row.figure:<44}  {row.value:10.5g}  [{row.low:g}, {row.high:g}]  {verdict}")
    print(json.dumps([{**asdict(row), "held": row.held} for row in found]))
    sys.exit(any(not row.held for row in found))


if __name__ == "__main__":
    main()
