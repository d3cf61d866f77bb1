"""A full run's bands: they hold runs that follow their law, let go of runs that leave it, and see no future."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import full_forecast as real
from sweeper.full_bands import Band, Course
from sweeper.full_forecast import FullForecast, full_forecast
from sweeper.observations_kept import Kept
from sweeper.scaling.records import Array
from tests.sweeper import annealed
from tests.sweeper.annealed import LONG, course, foretold, trials


@cache
def peers() -> list[Course]:
    return trials()


def full(seed: int = 0, upto: float = 1.0, **given: float) -> Course:
    return course(0.015, LONG, "promotion 0", seed=seed, upto=upto, **given)


def raised(run: Course, by: float, after: float) -> Course:
    factor = np.where(run.points.progress > after, 1 + by, 1.0)
    points = run.points
    lifted = dataclasses.replace(points, train_loss=points.train_loss * factor, val_loss=points.val_loss * factor)
    return dataclasses.replace(run, points=lifted)


def inside(found: FullForecast) -> list[bool]:
    told = []
    for at, loss in zip(found.tokens_n, found.loss_n, strict=True):
        band = next(b for b in reversed(found.bands) if b.tokens_m[0] < at or b is found.bands[0])
        low, high = (np.interp(at, band.tokens_m, bound) for bound in (band.low_m, band.high_m))
        told.append(bool(low <= loss <= high))
    return told


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_a_run_that_follows_its_schedule_stays_inside_and_its_end_is_foretold(seed: int) -> None:
    found = foretold(full(seed), peers())
    assert [band.share for band in found.bands] == [0.2, 0.3, 0.5, 0.7]
    assert found.state == "inside" and not found.before
    assert np.mean(inside(found)) > 0.85
    end = float(np.mean(found.loss_n[-3:]))
    for band in found.bands:
        assert band.end.low < end < band.end.high
        assert abs(np.log(band.end.value / end)) < 0.05
    assert found.words.startswith("The measured losses keep to the band. Foretold from 70% of the run and 6 earlier")


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([-0.12, 0.12]))
def test_a_run_that_leaves_its_band_raises_the_alarm_and_says_since_when(seed: int, by: float) -> None:
    run = raised(full(seed), by, 0.55)
    found = foretold(run, peers())
    side = "above" if by > 0 else "below"
    assert found.state == side and found.alarm
    left = 0.55 * LONG / annealed.BATCH
    assert found.since_step is not None and left <= found.since_step < left + 0.07 * LONG / annealed.BATCH
    assert found.by is not None and 0.01 < found.by < abs(by) * 3
    assert f"is {side} its band since step {found.since_step:,}" in found.words
    assert [band.share for band in found.bands] == [0.2, 0.3, 0.5], "what left the band teaches no new one"


def test_bands_see_nothing_of_what_they_judge() -> None:
    so_far, whole = foretold(full(3, upto=0.5), peers()), foretold(raised(full(3), 0.5, 0.5), peers())
    assert [band.share for band in so_far.bands] == [0.2, 0.3, 0.5]
    for before, after in zip(so_far.bands, whole.bands, strict=False):
        assert (before.low_m == after.low_m).all() and (before.high_m == after.high_m).all()
    assert whole.alarm


def test_one_that_comes_back_is_inside_and_the_past_is_told() -> None:
    run = full(4)
    lifted = np.where((run.points.progress > 0.4) & (run.points.progress < 0.48), 1.15, 1.0)
    run = dataclasses.replace(run, points=dataclasses.replace(run.points, train_loss=run.points.train_loss * lifted))
    found = foretold(run, peers())
    ((side, first, last),) = found.before
    assert (found.state, side) == ("inside", "above") and first < last
    assert f"back in the band; they were above it from step {first:,} to {last:,}" in found.words


def test_two_points_outside_are_no_alarm() -> None:
    run = full(5)
    lifted = np.where((run.points.progress > 0.4) & (run.points.progress <= 0.4 + 1.9 / 60), 1.15, 1.0)
    run = dataclasses.replace(run, points=dataclasses.replace(run.points, train_loss=run.points.train_loss * lifted))
    found = foretold(run, peers())
    assert found.state == "inside" and not found.before


def test_validations_are_judged_where_there_are_enough_of_them() -> None:
    others = trials(held_out=12)
    found = foretold(full(6, held_out=40), others)
    assert found.kind == "held-out loss" and len(found.tokens_n) == 32 and found.state == "inside"
    assert foretold(full(6, held_out=10), others).kind == "train loss"


@pytest.mark.parametrize(
    ("run", "others", "reason"),
    [
        (full(upto=0.15), None, "one is made from 20% of the run on, and it is at 15%"),
        (dataclasses.replace(full(), config={"command": {}}), None, "whose schedule sweeper does not know"),
        (
            dataclasses.replace(full(), config=annealed.config(0.015, warmdown=0.95)),
            [],
            "0 earlier runs of this model, batch and data whose rate falls, 3 needed (42 with another batch)",
        ),
    ],
)
def test_where_there_is_no_band_it_says_why(run: Course, others: list[Course] | None, reason: str) -> None:
    found = foretold(run, peers() if others is None else others, "42 with another batch")
    assert found.state == "none" and not found.bands and not found.alarm
    assert found.words.startswith("No band: ") and reason in found.words


def test_without_peers_the_band_ends_where_the_rate_begins_to_fall() -> None:
    found = foretold(full(7), [], "5 with another model")
    assert found.bands and found.state == "inside"
    assert found.bands[-1].tokens_m[-1] == pytest.approx(0.6 * LONG)
    assert "what the fall of the rate will gain is not known" in found.words and "5 with another model" in found.words


def test_so_it_does_where_the_run_is_much_longer_than_its_peers() -> None:
    run = course(0.015, 10 * annealed.SHORT, "promotion 0")
    found = foretold(run, peers())
    assert found.bands[-1].tokens_m[-1] == pytest.approx(6 * annealed.SHORT)
    assert "10 times as long as the longest of them, 8 are allowed" in found.until


def test_a_phase_that_resets_the_optimiser_ends_the_law() -> None:
    phases = [{"name": "a", "tokens": 60_000_000}, {"name": "b", "tokens": 60_000_000, "lr": 0.5, "optimizer": "reset"}]
    run = annealed.config(0.015, plan={"phases": phases})
    measured = Course(name="p", config=run, points=annealed.points(run, LONG), tokens=LONG)
    found = foretold(measured, peers())
    assert found.bands[-1].tokens_m[-1] == pytest.approx(0.5 * LONG, rel=0.01)
    assert found.until == "b begins with an optimiser reset, which no annealing law describes"


def test_packaged_runs_of_108_seconds_are_foretold_from_trials_of_27() -> None:
    ladder, grid = real.courses("ladder-h200"), real.courses("grid-h200")
    off: dict[float, list[float]] = {0.3: [], 0.5: [], 0.7: []}
    held, alarms = [], 0
    for run in grid:
        found = real.foretold(run, real.near(run, ladder))
        held += inside(found)
        alarms += found.alarm or bool(found.before)
        for band in found.bands:
            if band.share in off:
                off[band.share].append(abs(float(np.log(real.end(run) / band.end.value))))
                assert band.end.low < real.end(run) < band.end.high
    assert all(float(np.mean(errors)) < most for errors, most in zip(off.values(), (0.035, 0.02, 0.02), strict=True))
    assert np.mean(held) > 0.9 and alarms == 0


def test_the_same_twice_within_two_seconds_and_then_kept() -> None:
    run, kept = full(8), Kept()
    began = time.perf_counter()
    first = foretold(run, peers())
    assert time.perf_counter() - began < 2
    again = foretold(run, peers())
    assert all((a.high_m == b.high_m).all() for a, b in zip(first.bands, again.bands, strict=True))

    made: list[str] = []

    def keep(said: str, columns: Sequence[Array], make: Callable[[], Band | str]) -> Band | str:
        def counted() -> Band | str:
            made.append(said)
            return make()

        return kept.get(said, columns, counted)

    full_forecast(full(8, upto=0.4), peers(), "", keep)
    assert len(made) == 2
    full_forecast(full(8, upto=0.6), peers(), "", keep)
    assert len(made) == 3, "bands of the past are not made again"
