"""Whether a trial is behind at a rung, and by what: raw values, cooled outcomes, or ends that its peers foretell.

Optuna holds one kind of value for all trials of a study.  Forecasts are not stored: at each judgement all trials that
reached the rung are foretold anew from those that have finished, so that a ranking never has two kinds in it, and moves
with what is known (decision 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select

from sweeper.scaling.forecast import Curve, forecast_all
from sweeper.scaling.records import Array, Unidentified
from sweeper.search import Search
from sweeper.service import Service
from sweeper.study import StudySpec
from sweeper.tables import PointRow, RunRow

MOST_PEERS = 200
"""Finished trials that forecasts are made from, the newest: more say no more, and the search moves on."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the pruner says of a trial at the last rung it reported."""

    behind: bool
    percent: int | None
    """The rung; None before the first."""
    basis: str = ""
    """What the trial was ranked by, in words; empty for raw values where the study asks for these."""

    @property
    def words(self) -> str:
        return f"behind at {self.percent} %" + (f" by {self.basis}" if self.basis else "")


def verdict(service: Service, search: Search, run: RunRow) -> Verdict:
    """Judge a trial among those that reached the rung it reported last; within the study's turn."""
    trial = search.trial(run.number)
    percent = trial.last_step
    if percent is None:
        return Verdict(False, None)
    if search.spec.pruned_on != "forecast":
        return Verdict(search.is_behind(run.number), percent, _cooled(search.spec, percent))
    ends = _foretold(service, search, run, percent)
    if isinstance(ends, Unidentified):
        raw = f"the raw value {trial.intermediate_values[percent]:.4f}, as there is no forecast: {ends.not_identified}"
        return Verdict(search.is_behind(run.number), percent, raw)
    return Verdict(search.is_behind_by(run.number, ends), percent, f"the forecast of its end, {ends[run.number]:.4f}")


def _cooled(spec: StudySpec, percent: int) -> str:
    if spec.pruned_on != "cooled":
        return ""
    shares = dict(zip(spec.budget.ladder, spec.budget.ladder_shares, strict=True))
    budget = min(shares, key=lambda rung: abs(100 * shares[rung] - percent))
    return f"the cooled outcome of {budget:g} {spec.budget.unit}"


def _foretold(service: Service, search: Search, run: RunRow, percent: int) -> Mapping[int, float] | Unidentified:
    """The end of every trial that reached the rung, this one among them."""
    rung = next(share for share in search.spec.budget.rungs if round(100 * share) == percent)
    finished, curves = _curves(service, run.study_id)
    upto = {n: _cut(points, rung) for n, points in curves.items() if (np.abs(points[0] - rung) < 1e-6).any()}
    if run.number not in upto:
        return Unidentified(used=0, not_identified="its curve has no finite value at the rung")
    peers = {n: Curve(*curves[n]) for n in finished[-MOST_PEERS:] if n in curves}
    ends = forecast_all(upto, peers)
    if not isinstance(ends, Unidentified) and run.number not in ends:
        return Unidentified(used=len(peers), not_identified="it has fewer than three validations to tell a slope from")
    return ends


def _cut(points: Array, rung: float) -> Curve:
    kept = points[:, points[0] <= rung + 1e-6]
    return Curve(kept[0], kept[1])


def _curves(service: Service, study_id: int) -> tuple[list[int], dict[int, Array]]:
    """Numbers of finished trials, the newest last, and (2, m) shares and val_bpb of every trial that did not fail."""
    runs = select(RunRow.id, RunRow.number, RunRow.state).where(RunRow.study_id == study_id, RunRow.kind == "trial")
    runs = runs.where(RunRow.state != "failed").order_by(RunRow.ended_at, RunRow.id)
    points = select(PointRow.run_id, PointRow.fraction, PointRow.progress, PointRow.val_bpb)
    points = points.join(RunRow, RunRow.id == PointRow.run_id).where(
        RunRow.study_id == study_id, RunRow.kind == "trial", PointRow.val_bpb.is_not(None)
    )
    with service.read() as session:
        told = session.execute(runs).all()
        rows = session.execute(points.order_by(PointRow.run_id, PointRow.seq)).all()
    table = np.array([(r.run_id, r.progress if r.fraction is None else r.fraction, r.val_bpb) for r in rows])
    found: dict[int, Array] = {}
    for row in told:
        own = table[table[:, 0] == row.id, 1:].T if len(table) else np.empty((2, 0))
        share, first = np.unique(own[0], return_index=True)
        kept = (share > 0) & (share <= 1)
        if kept.any():
            found[row.number] = np.stack([share, own[1, first]])[:, kept]
    return [row.number for row in told if row.state == "complete"], found
