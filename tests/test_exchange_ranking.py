"""Metrics beside each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from exchange_studies import versions
from statsmodels.stats.multitest import multipletests

from moonrec.exchange.observations import ALL, Metric, Outcome
from moonrec.exchange.ranking import exchange_rates
from moonrec.exchange.slope import exchange_rate

COUNT = 8
TASTE_V = np.linspace(0.5, 0.6, COUNT)
AUC_VS = 0.4 + 0.4 * TASTE_V[:, None] + np.random.default_rng(0).normal(0, 0.0005, (COUNT, 3))
AUC = Outcome("auc", ALL, AUC_VS, None)


def _metric(name: str, value_V: np.ndarray, domain: str = ALL, noise: float | None = None) -> Metric:
    return Metric(name, domain, value_V, None if noise is None else noise**2 * np.eye(len(value_V)))


def _fooled() -> Metric:
    """Follows taste, but for a version that finds what users do not care about."""
    value_V = TASTE_V.copy()
    value_V[3] += 0.03
    return _metric("fooled", value_V)


def test_metric_that_predicts_left_out_versions_best_comes_first() -> None:
    unrelated_V = np.random.default_rng(1).permutation(TASTE_V)
    metrics = [_metric("unrelated", unrelated_V), _fooled(), _metric("taste", TASTE_V)]
    rates = exchange_rates(metrics, [AUC], versions(COUNT))
    assert [rate.metric for rate in rates] == ["taste", "fooled", "unrelated"]
    assert rates[0].established


def test_established_comes_before_what_predicts_better_and_is_not() -> None:
    noisy = _metric("noise", TASTE_V + np.tile([0.0005, -0.0005], COUNT // 2), noise=0.035)
    rates = exchange_rates([noisy, _fooled(), _metric("constant", np.ones(COUNT))], [AUC], versions(COUNT))
    assert [rate.metric for rate in rates] == ["fooled", "noise", "constant"]
    assert rates[1].loo_error < rates[0].loo_error
    assert [rate.established for rate in rates] == [True, False, False]


def _of_easy_versions() -> tuple[list[Metric], Outcome]:
    """Six versions that are hard to tell apart; two far off, of which one metric is not known."""
    y_V = np.array([0.500, 0.501, 0.502, 0.503, 0.504, 0.505, 0.54, 0.58])
    wobble_V = np.array([1, -1, 1, -1, 1, -1, 1, -1])
    partly_V = y_V + 0.0008 * wobble_V
    partly_V[6:] = np.nan
    metrics = [_metric("partly", partly_V), _metric("rough", y_V + 0.0012 * wobble_V)]
    return [*metrics, _metric("fine", y_V + 0.0004 * wobble_V)], Outcome("auc", ALL, y_V[:, None], None)


def test_metrics_are_ordered_on_the_versions_that_they_share() -> None:
    metrics, auc = _of_easy_versions()
    ranked = exchange_rates(metrics, [auc], versions(COUNT))
    assert [rate.metric for rate in ranked] == ["fine", "partly", "rough"]
    assert [rate.points for rate in ranked] == [8, 6, 8]
    assert all(rate.established for rate in ranked[:2])
    own = {metric.name: exchange_rate(metric, auc, versions(COUNT)) for metric in metrics}
    # On its own versions, the two far ones among them, the rough one misses by less of the mean's error.
    assert own["rough"].loo_ratio < own["partly"].loo_ratio
    six = [
        exchange_rate(replace(m, value_V=np.r_[m.value_V[:6], np.nan, np.nan]), auc, versions(COUNT))
        for m in (metrics[2], metrics[0], metrics[1])
    ]
    assert [rate.loo_ratio for rate in ranked] == pytest.approx([rate.loo_ratio for rate in six])


def test_small_error_of_versions_that_are_easy_to_tell_is_no_merit() -> None:
    """Without a common set, errors count relative to that of the mean."""
    y_V = np.r_[np.linspace(0.500, 0.505, 5), np.linspace(0.6, 0.7, 5)]
    wobble_V = np.tile([1.0, -1.0], 5)
    near_V, far_V = y_V + 0.0008 * wobble_V, y_V + 0.002 * wobble_V
    near_V[5:], far_V[:5] = np.nan, np.nan
    auc = Outcome("auc", ALL, y_V[:, None], None)
    ranked = exchange_rates([_metric("near", near_V), _metric("far", far_V)], [auc], versions(10))
    assert [rate.metric for rate in ranked] == ["far", "near"]
    assert ranked[0].loo_error > ranked[1].loo_error
    assert ranked[0].loo_ratio < ranked[1].loo_ratio


def test_metrics_meet_only_outcomes_of_their_own_domain_and_are_corrected_within_it() -> None:
    generator = np.random.default_rng(2)
    metrics = [
        _metric(f"{domain}{number}", generator.normal(0.5, 0.1, COUNT), domain)
        for domain in (ALL, "shoes")
        for number in range(4)
    ]
    outcomes = [AUC, Outcome("auc", "shoes", AUC_VS, None)]
    rates = exchange_rates(metrics, outcomes, versions(COUNT))
    assert [rate.domain for rate in rates] == [ALL] * 4 + ["shoes"] * 4
    for domain in (ALL, "shoes"):
        own = [rate for rate in rates if rate.domain == domain]
        expected = multipletests([rate.p for rate in own], method="holm")[1]
        assert [rate.p_holm for rate in own] == pytest.approx(list(expected))
