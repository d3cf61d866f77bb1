from __future__ import annotations

import numpy as np
import pytest

from sweeper.scaling.forecast import Curve, forecast_all, forecast_final
from sweeper.scaling.records import Unidentified

GRID = np.linspace(0.05, 1.0, 20)


def curve(exponent, floor=2.0, scale=0.6, noise=0.001, seed=0, until=1.0) -> Curve:
    """A power law, with a decay over the last 30 % that collects more from runs that fell slowly."""
    random = np.random.default_rng(seed)
    decay = 0.06 * np.clip((GRID - 0.7) / 0.3, 0, 1)
    loss = (floor + scale * GRID**-exponent - decay) * np.exp(noise * random.normal(size=len(GRID)))
    kept = until + 1e-9 >= GRID
    return Curve(GRID[kept], loss[kept])


PEERS = [
    curve(e, f, seed=k)
    for k, (e, f) in enumerate(zip(np.linspace(0.2, 0.6, 12), np.tile([1.9, 2.0, 2.1], 4), strict=True))
]


@pytest.mark.parametrize("until", [0.3, 0.5, 0.7, 0.9])
def test_the_end_lies_in_the_band_and_the_band_narrows(until):
    hits = []
    for k in range(20):
        whole = curve(0.3 + 0.01 * k, 2.0, seed=100 + k)
        found = forecast_final(Curve(*(x[until + 1e-9 >= GRID] for x in (whole.fraction_m, whole.loss_m))), PEERS)
        hits.append(found.final.low < whole.loss_m[-1] < found.final.high)

    assert np.mean(hits) >= 0.85


def test_nearer_the_end_the_band_is_narrower():
    early, late = (forecast_final(curve(0.4, seed=50, until=until), PEERS).final.width for until in (0.4, 0.9))

    assert late < 0.7 * early


def test_before_30_percent_there_is_no_forecast():
    found = forecast_final(curve(0.4, until=0.25), PEERS)

    assert found.final is None
    assert found.not_identified.startswith("at 25% of the budget")


def test_peers_that_did_not_finish_do_not_count():
    found = forecast_final(curve(0.4, until=0.5), [*PEERS[:3], *(curve(0.3, until=0.8) for _ in range(5))])

    assert found.final is None
    assert found.not_identified == "3 finished peers, 5 needed"
    assert {e.reason for e in found.excluded} == {"did not finish"}


def test_a_curve_that_runs_backwards_is_refused():
    with pytest.raises(ValueError, match="fractions must ascend"):
        Curve(np.array([0.5, 0.4]), np.array([3.0, 2.9]))


def test_all_at_once_are_foretold_as_each_by_itself():
    running = {k: curve(0.2 + 0.05 * k, seed=200 + k, until=0.5) for k in range(6)}

    found = forecast_all(running, dict(enumerate(PEERS, 100)))

    each = {k: forecast_final(run, PEERS).final.value for k, run in running.items()}
    assert found == pytest.approx(each, rel=1e-3)


def test_a_finished_run_is_foretold_from_the_others():
    peers = dict(enumerate(PEERS))
    cut = Curve(*(x[GRID <= 0.5 + 1e-9] for x in (PEERS[3].fraction_m, PEERS[3].loss_m)))
    others = [peer for k, peer in peers.items() if k != 3]

    assert forecast_all({3: cut}, peers)[3] == pytest.approx(forecast_final(cut, others).final.value, rel=1e-3)


def test_all_or_none_are_foretold():
    running = {0: curve(0.4, until=0.5)}

    found = forecast_all(running, dict(enumerate(PEERS[:4])))

    assert isinstance(found, Unidentified)
    assert found.not_identified == "4 finished trials to foretell from, 5 needed"
    with pytest.raises(ValueError, match=r"one share of the budget, got \[0.5, 0.6\]"):
        forecast_all(running | {1: curve(0.4, until=0.6)}, dict(enumerate(PEERS)))


def test_what_crawls_does_not_bend_the_forecast_of_the_leaders():
    """Runs far behind, with ends that the slope does not tell: as rates that are far too low, or too high."""
    random = np.random.default_rng(0)
    crawling = []
    for k in range(12):
        loss = 3.2 + 0.1 * k - random.uniform(0.0, 0.5) * GRID**3
        crawling.append(Curve(GRID, loss))
    whole = curve(0.4, 2.0, seed=70)
    cut = Curve(*(x[GRID <= 0.5 + 1e-9] for x in (whole.fraction_m, whole.loss_m)))

    alone, among = (forecast_final(cut, peers).final.value for peers in (PEERS, [*PEERS, *crawling]))

    assert among == pytest.approx(whole.loss_m[-1], rel=0.006)
    assert among == pytest.approx(alone, rel=0.006)
