"""One metric's exchange rate: equal to the mixed model, to brute force, and silent where nothing is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from exchange_studies import Study, noise, versions
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from moonrec.exchange.observations import ALL, Metric, Outcome, Versions
from moonrec.exchange.slope import Rate, exchange_rate


def _without_noise(study: Study, seed: int) -> tuple[Metric, Outcome]:
    metric, outcome = study.draw(np.random.default_rng(seed))
    return replace(metric, covariance_VV=None), replace(outcome, covariance_VV=None)


def _rate(x: list[float], y: list[list[float]]) -> Rate:
    return exchange_rate(
        Metric("recall", ALL, np.array(x), None), Outcome("auc", ALL, np.array(y), None), versions(len(x))
    )


def test_slope_and_standard_error_are_those_of_the_mixed_model() -> None:
    study = Study(scatter=0.3, seed_noise=0.1, slope=2.0, versions=9, seeds=4)
    metric, outcome = _without_noise(study, 0)
    rate = exchange_rate(metric, outcome, versions(9))
    rows = pd.DataFrame(
        {
            "x": np.repeat(metric.value_V, 4),
            "y": outcome.value_VS.ravel(),
            "seed": np.tile(np.arange(4), 9).astype(str),
            "version": np.repeat(np.arange(9), 4),
        }
    )
    fitted = MixedLM.from_formula("y ~ x + C(seed)", groups="version", data=rows).fit(reml=True)
    half = stats.t.ppf(0.975, 7) * fitted.bse["x"]
    assert rate.slope == pytest.approx(fitted.params["x"], rel=1e-6)
    assert rate.ci_low is not None
    assert rate.slope is not None
    assert rate.slope - rate.ci_low == pytest.approx(half, rel=1e-3)


def test_without_known_noise_the_interval_is_that_of_least_squares_on_the_means() -> None:
    metric, outcome = _without_noise(Study(), 1)
    rate = exchange_rate(metric, outcome, versions(8))
    found = stats.linregress(metric.value_V, outcome.value_VS.mean(axis=1))
    assert rate.slope == rate.slope_ols == pytest.approx(found.slope)
    assert rate.p == pytest.approx(found.pvalue)
    assert rate.ci_high == pytest.approx(found.slope + stats.t.ppf(0.975, 6) * found.stderr)
    assert rate.r2 == pytest.approx(found.rvalue**2)
    assert rate.reliability is None


@pytest.mark.parametrize("seed", range(4))
def test_left_out_errors_and_influence_are_those_of_fitting_again(seed: int) -> None:
    metric, outcome = _without_noise(Study(versions=7), seed)
    x, y = metric.value_V, outcome.value_VS.mean(axis=1)
    lines = [stats.linregress(np.delete(x, v), np.delete(y, v)) for v in range(7)]
    errors = np.array([y[v] - line.intercept - line.slope * x[v] for v, line in enumerate(lines)])
    mean_errors = np.array([y[v] - np.delete(y, v).mean() for v in range(7)])
    rate = exchange_rate(metric, outcome, versions(7))
    assert rate.loo_error == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert rate.loo_error_mean == pytest.approx(np.sqrt(np.mean(mean_errors**2)))
    change = [abs(rate.slope_ols - line.slope) for line in lines]
    assert rate.most_influential == f"v{np.argmax(change)}"
    assert rate.slope_without_it == pytest.approx(lines[int(np.argmax(change))].slope)
    assert rate.overrated == f"v{np.argmin(errors)}"
    assert rate.overrated_by == pytest.approx(-errors.min())


def test_rank_correlation_counts_ties_as_scipy_does() -> None:
    x, y = [0.1, 0.2, 0.2, 0.4, 0.5, 0.1], [0.5, 0.6, 0.5, 0.6, 0.7, 0.8]
    rate = _rate(x, [[value] for value in y])
    assert rate.spearman == pytest.approx(stats.spearmanr(x, y).statistic)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 100), st.floats(-5, 5), st.floats(0.01, 100))
def test_units_and_what_all_versions_share_do_not_matter(scale: float, shift: float, unit: float) -> None:
    study = Study(users=noise(0.004, own=0.001), queries=noise(0.02, own=0.01))
    metric, outcome = study.draw(np.random.default_rng(2))
    other_metric = Metric(
        "recall", ALL, metric.value_V * scale + shift, (metric.covariance_VV + 0.3) * scale**2
    )
    other_outcome = Outcome(
        "auc", ALL, outcome.value_VS * unit - shift, (outcome.covariance_VV + 1) * unit**2
    )
    one = exchange_rate(metric, outcome, versions(8))
    other = exchange_rate(other_metric, other_outcome, versions(8))
    assert other.slope == pytest.approx(one.slope * unit / scale, rel=1e-6)
    assert other.ci_low == pytest.approx(one.ci_low * unit / scale, rel=1e-5, abs=1e-9 * unit / scale)
    assert other.reliability == pytest.approx(one.reliability, rel=1e-6)
    assert other.loo_error == pytest.approx(one.loo_error * unit, rel=1e-6)


def test_order_of_versions_does_not_matter() -> None:
    metric, outcome = Study(users=noise(own=0.001, along=0.02)).draw(np.random.default_rng(3))
    order = np.random.default_rng(4).permutation(8)
    square = np.ix_(order, order)
    names = [f"v{row}" for row in order]
    shuffled = exchange_rate(
        replace(metric, value_V=metric.value_V[order], covariance_VV=metric.covariance_VV[square]),
        replace(outcome, value_VS=outcome.value_VS[order], covariance_VV=outcome.covariance_VV[square]),
        Versions(names, names),
    )
    expected = exchange_rate(metric, outcome, versions(8))
    assert shuffled.most_influential == expected.most_influential
    assert shuffled.ci_low == pytest.approx(expected.ci_low)


def test_versions_without_the_metric_and_seeds_without_a_value_are_left_out() -> None:
    metric, outcome = Study(users=noise(own=0.001)).draw(np.random.default_rng(5))
    x_V, y_VS = metric.value_V.copy(), outcome.value_VS.copy()
    x_V[2], y_VS[4], y_VS[0, 1] = np.nan, np.nan, np.nan
    kept, seeds = [0, 1, 3, 5, 6, 7], [0, 2]
    rate = exchange_rate(replace(metric, value_V=x_V), replace(outcome, value_VS=y_VS), versions(8))
    square = np.ix_(kept, kept)
    alone = exchange_rate(
        Metric("recall", ALL, x_V[kept], metric.covariance_VV[square]),
        Outcome("auc", ALL, y_VS[np.ix_(kept, seeds)], outcome.covariance_VV[square]),
        versions(6),
    )
    assert (rate.points, rate.seeds) == (6, 2)
    assert (rate.slope, rate.ci_low, rate.loo_error) == (alone.slope, alone.ci_low, alone.loo_error)


def test_too_few_versions_are_told_with_their_slope() -> None:
    rate = _rate([0.1, 0.2, 0.3, 0.4], [[0.51], [0.52], [0.53], [0.541]])
    assert not rate.established
    assert "4 versions" in (rate.why_not or "")
    assert rate.ci_low is not None
    assert rate.ci_low > 0


def test_two_versions_have_a_slope_and_no_interval() -> None:
    rate = _rate([0.1, 0.2], [[0.51, 0.52], [0.52, 0.53]])
    assert rate.slope == pytest.approx(0.1)
    assert (rate.ci_low, rate.p, rate.loo_error, rate.established) == (None, None, None, False)


def test_constant_metric_is_told() -> None:
    rate = _rate([0.3] * 6, [[0.5], [0.6], [0.7], [0.5], [0.6], [0.5]])
    assert "same for every version" in (rate.why_not or "")
    assert (rate.slope, rate.r2, rate.loo_error) == (None, None, None)


def test_outcome_that_is_nowhere_defined_is_told() -> None:
    rate = _rate([0.1, 0.2, 0.3, 0.4, 0.5], [[np.nan, np.nan]] * 5)
    assert "auc is undefined" in (rate.why_not or "")
    assert rate.points == 0


def test_constant_outcome_is_worth_nothing() -> None:
    rate = _rate([0.1, 0.2, 0.3, 0.4, 0.5], [[0.5]] * 5)
    assert not rate.established
    assert (rate.slope, rate.p, rate.r2) == (0.0, 1.0, None)


def test_metric_of_little_more_than_noise_has_no_slope() -> None:
    x_V = np.array([0.1, 0.12, 0.11, 0.13, 0.1, 0.12])
    metric = Metric("recall", ALL, x_V, 0.02**2 * np.eye(6))
    rate = exchange_rate(metric, Outcome("auc", ALL, 2 * x_V[:, None], None), versions(6))
    assert (rate.slope, rate.ci_low, rate.p) == (None, None, None)
    assert rate.slope_ols == pytest.approx(2)
    assert "sampling noise" in (rate.why_not or "")


def test_version_that_alone_differs_is_named_and_leaves_no_line_behind() -> None:
    rate = _rate([0.1] * 5 + [0.4], [[0.5], [0.51], [0.49], [0.5], [0.5], [0.6]])
    assert rate.most_influential == "v5"
    assert rate.slope_without_it is None
    assert rate.loo_error is not None


def test_version_that_gains_in_the_metric_only_is_named() -> None:
    x = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    rate = _rate(x, [[0.5 + 0.1 * value] for value in x[:5]] + [[0.52]])
    assert rate.overrated == "v5"
    assert rate.overrated_by == pytest.approx(0.04)


def test_a_rate_that_hangs_on_one_training_is_not_established_and_names_it() -> None:
    """Its checkpoints stand in for each other: without either of them little would change."""
    families = [*"abcdef", "broken", "broken"]
    x = [0.70, 0.71, 0.72, 0.73, 0.74, 0.75, 0.0, 0.02]
    y = [0.503, 0.5, 0.504, 0.499, 0.502, 0.501, 0.40, 0.405]
    many = Versions([f"v{number}" for number in range(8)], families)
    rate = exchange_rate(
        Metric("recall", ALL, np.array(x), None), Outcome("auc", ALL, np.array(y)[:, None], None), many
    )
    assert not rate.established
    assert (rate.most_influential, rate.established_without_it) == ("broken", False)
    assert rate.slope_without_it == pytest.approx(stats.linregress(x[:6], y[:6]).slope)
