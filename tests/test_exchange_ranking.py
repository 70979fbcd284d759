"""Metrics beside each other, and single steps from a version to another."""

from __future__ import annotations

import numpy as np
import pytest
from exchange_studies import versions
from statsmodels.stats.multitest import multipletests

from moonrec.exchange.observations import ALL, Metric, Outcome
from moonrec.exchange.ranking import exchange_rates, holm
from moonrec.exchange.steps import Step, steps

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


def test_holm_leaves_out_what_was_not_tested() -> None:
    assert holm([0.04, None, 0.01]) == pytest.approx([0.04, None, 0.02])


def _step(
    metric_gain: float, auc_gain_S: list[float], noise: float | None = 0.001, name: str = "recall"
) -> Step:
    auc_VS = 0.6 + np.array([np.zeros(len(auc_gain_S)), auc_gain_S])
    metric = _metric(name, np.array([0.5, 0.5 + metric_gain]), noise=noise)
    return steps([metric], [Outcome("auc", ALL, auc_VS, None)], versions(2), [("v0", "v1")])[0]


@pytest.mark.parametrize(
    ("gain", "auc_gains", "verdict"),
    [
        (0.05, [0.004, 0.005, 0.006], "worth something (ΔAUC between"),
        (0.05, [0.004, -0.005, 0.0], "worth nothing that this study could see (ΔAUC between"),
        (0.05, [-0.004, -0.005, -0.006], "costs (ΔAUC between"),
        (0.0, [0.004, 0.005, 0.006], "worth something, though the metric did not clearly move"),
        (-0.05, [0.004, 0.005, 0.006], "worth something, though the metric got worse"),
        (-0.05, [0.004, -0.005, 0.0], "neither a clear gain"),
        (0.05, [0.005], "cannot be told"),
    ],
)
def test_verdict_of_a_step(gain: float, auc_gains: list[float], verdict: str) -> None:
    assert _step(gain, auc_gains).verdict.startswith(verdict)


def test_falling_loss_is_a_gain() -> None:
    fallen = _step(-0.05, [0.004, -0.005, 0.0], name="retrieval.image_to_item.contrastive_loss")
    assert fallen.verdict.startswith("worth nothing that this study could see")


def test_step_pairs_seeds_so_that_their_common_level_does_not_widen_it() -> None:
    level_S = np.array([0.0, 0.1, -0.1])
    auc_VS = np.stack([level_S, level_S + np.array([0.004, 0.005, 0.006])])
    metric = _metric("recall", np.array([0.5, 0.55]))
    found = steps([metric], [Outcome("auc", ALL, auc_VS, None)], versions(2), [("v0", "v1")])[0]
    assert found.outcome_ci_low is not None
    assert found.outcome_ci_low > 0.002
    assert found.metric_ci_low is None


def test_interval_of_the_rate_is_every_rate_that_the_data_do_not_refuse() -> None:
    found = _step(0.05, [0.004, 0.005, 0.006], noise=0.004)
    variance = np.var([0.004, 0.005, 0.006], ddof=1) / 3
    for limit in (found.rate_ci_low, found.rate_ci_high):
        distance = (found.outcome_difference - limit * found.metric_difference) ** 2
        # Student's t with two degrees of freedom: 4.303.
        assert distance == pytest.approx(4.3027**2 * (variance + limit**2 * 2 * 0.004**2), rel=1e-3)
    assert found.rate_ci_low < found.rate < found.rate_ci_high


def test_rate_of_a_metric_that_did_not_clearly_move_is_unbounded() -> None:
    found = _step(0.001, [0.004, 0.005, 0.006], noise=0.004)
    assert found.rate == pytest.approx(5.0)
    assert (found.rate_ci_low, found.rate_ci_high) == (None, None)


def test_step_is_told_from_before_to_after() -> None:
    pairs = [("v0", "v7"), ("v7", "v0")]
    there, back = steps([_metric("taste", TASTE_V)], [AUC], versions(COUNT), pairs)
    assert there.metric_difference == pytest.approx(0.1)
    assert (back.metric_difference, back.outcome_difference) == pytest.approx(
        (-there.metric_difference, -there.outcome_difference)
    )
    assert back.rate == pytest.approx(there.rate)


@pytest.mark.parametrize("pair", [("v0", "v9"), ("v1", "v1")])
def test_pair_must_be_of_two_versions(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="expected two of v0, v1"):
        steps([_metric("taste", TASTE_V)], [AUC], versions(COUNT), [pair])


def test_step_to_a_version_without_the_metric_is_left_out() -> None:
    value_V = TASTE_V.copy()
    value_V[7] = np.nan
    metrics = [_metric("partly", value_V), _metric("taste", TASTE_V)]
    found = steps(metrics, [AUC], versions(COUNT), [("v0", "v7")])
    assert [step.metric for step in found] == ["taste"]
