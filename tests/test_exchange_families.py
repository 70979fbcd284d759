"""Checkpoints of one training: what a rate says of them rests on trainings, not on versions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from exchange_studies import Trainings, noise, versions
from scipy import stats

from moonrec.exchange.families import cluster_robust
from moonrec.exchange.observations import ALL, Metric, Outcome, Versions
from moonrec.exchange.slope import exchange_rate

Drawn = tuple[Metric, Outcome, Versions]


def _drawn(seed: int, study: Trainings | None = None) -> Drawn:
    """Without any known noise."""
    metric, outcome, named = (study or Trainings()).draw(np.random.default_rng(seed))
    return replace(metric, covariance_VV=None), replace(outcome, covariance_VV=None), named


def _parts(drawn: Drawn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Metric, outcome's means, codes of families."""
    metric, outcome, named = drawn
    return (
        metric.value_V,
        outcome.value_VS.mean(axis=1),
        np.unique(named.families, return_inverse=True)[1],
    )


@pytest.mark.parametrize("seed", range(3))
def test_cluster_robust_variance_is_that_of_statsmodels(seed: int) -> None:
    x_V, y_V, family_V = _parts(_drawn(seed))
    fitted = sm.OLS(y_V, sm.add_constant(x_V)).fit(cov_type="cluster", cov_kwds={"groups": family_V})
    assert cluster_robust(x_V, y_V, family_V) == pytest.approx(fitted.bse[1] ** 2)


@pytest.mark.parametrize("seed", range(6))
def test_interval_is_the_widest_of_three_with_a_degree_of_freedom_less_than_trainings(seed: int) -> None:
    drawn = _drawn(seed)
    x_V, y_V, family_V = _parts(drawn)
    line = stats.linregress(x_V, y_V)
    without = [stats.linregress(x_V[family_V != f], y_V[family_V != f]).slope for f in range(4)]
    jackknife = 3 / 4 * np.square(line.slope - np.array(without)).sum()
    variance = max(jackknife, cluster_robust(x_V, y_V, family_V), line.stderr**2)
    rate = exchange_rate(*drawn)
    assert rate.slope == pytest.approx(line.slope)
    assert rate.ci_high == pytest.approx(line.slope + stats.t.ppf(0.975, 3) * np.sqrt(variance))
    assert rate.p == pytest.approx(2 * stats.t.sf(abs(line.slope) / np.sqrt(variance), 3))


def test_known_luck_of_the_test_users_widens_the_interval_over_trainings() -> None:
    drawn = Trainings(users=noise(along=0.06)).draw(np.random.default_rng(1))
    metric, outcome, named = drawn
    told, untold = exchange_rate(*drawn), exchange_rate(metric, replace(outcome, covariance_VV=None), named)
    assert told.slope == pytest.approx(untold.slope)
    # No residual shows luck that grows along the metric, and the interval is never less than it alone asks.
    half = stats.t.ppf(0.975, 3) * 0.06
    assert told.ci_high - told.slope > half > untold.ci_high - untold.slope


@pytest.mark.parametrize(("count", "told"), [(1, "1 training"), (2, "2 trainings")])
def test_checkpoints_of_one_or_two_trainings_establish_nothing(count: int, told: str) -> None:
    x_V = np.linspace(0.1, 0.8, 8)
    metric, outcome = Metric("recall", ALL, x_V, None), Outcome("auc", ALL, 0.5 + 0.1 * x_V[:, None], None)
    names = list(versions(8).names)
    rate = exchange_rate(metric, outcome, Versions(names, [f"run{n % count}" for n in range(8)]))
    assert not rate.established
    assert rate.why_not == f"all versions come from {told}, whose checkpoints are not independent"
    assert (rate.slope, rate.ci_low, rate.p) == (pytest.approx(0.1), None, None)
    assert rate.families == count
    assert (rate.loo_error is None) == (count == 1)
    assert exchange_rate(metric, outcome, Versions(names, names)).established


def test_metric_that_moves_in_one_training_only_has_no_interval() -> None:
    x_V = np.array([0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.4])
    outcome = Outcome("auc", ALL, 0.5 + 0.1 * x_V[:, None], None)
    named = Versions(list(versions(7).names), ["a", "a", "b", "c", "d", "d", "d"])
    rate = exchange_rate(Metric("recall", ALL, x_V, None), outcome, named)
    assert rate.why_not == "without one of the trainings the metric is the same for every version"
    assert (rate.established, rate.ci_low) == (False, None)


@pytest.mark.parametrize("seed", range(3))
def test_whole_trainings_are_left_out(seed: int) -> None:
    drawn = _drawn(seed)
    x_V, y_V, family_V = _parts(drawn)
    errors, mean_errors = [], []
    for family in range(4):
        out_V = family_V == family
        line = stats.linregress(x_V[~out_V], y_V[~out_V])
        errors += list(y_V[out_V] - line.intercept - line.slope * x_V[out_V])
        mean_errors += list(y_V[out_V] - y_V[~out_V].mean())
    rate = exchange_rate(*drawn)
    assert rate.loo_error == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert rate.loo_error_mean == pytest.approx(np.sqrt(np.mean(np.square(mean_errors))))
    assert rate.loo_ratio == pytest.approx(rate.loo_error / rate.loo_error_mean)
    assert rate.overrated == f"v{np.argmin(errors)}"


def test_neighbours_of_a_training_do_not_predict_each_other() -> None:
    """Metric and AUC have nothing to do with each other, but both tell one training from another."""
    generator, fooled, told = np.random.default_rng(0), [], []
    for _ in range(50):
        metric, outcome, named = Trainings(slope=0.0, apart=10.0, trainings=3).draw(generator)
        fooled.append(exchange_rate(metric, outcome, versions(len(named.names))).loo_ratio)
        told.append(exchange_rate(metric, outcome, named).loo_ratio)
    assert np.median(fooled) < 0.9
    assert np.median(told) > 1.2
