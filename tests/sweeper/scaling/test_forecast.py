from __future__ import annotations

import numpy as np
import pytest

from sweeper.scaling.forecast import Curve, forecast_final

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
