"""Single steps from a version to another: differences, rates, and what they are worth."""

from __future__ import annotations

import numpy as np
import pytest
from exchange_studies import versions

from moonrec.exchange.observations import ALL, Metric, Outcome, Versions
from moonrec.exchange.steps import Step, steps

COUNT = 8
TASTE_V = np.linspace(0.5, 0.6, COUNT)
AUC_VS = 0.4 + 0.4 * TASTE_V[:, None] + np.random.default_rng(0).normal(0, 0.0005, (COUNT, 3))
AUC = Outcome("auc", ALL, AUC_VS, None)
LOSS = "retrieval.image_to_item.contrastive_loss"


def _metric(name: str, value_V: np.ndarray, noise: float | None = None) -> Metric:
    return Metric(name, ALL, value_V, None if noise is None else noise**2 * np.eye(len(value_V)))


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
        (0.05, [0.004, -0.005, 0.0], "too noisy to tell: the other versions establish no rate"),
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
    fallen = _step(-0.05, [0.004, -0.005, 0.0], name=LOSS)
    assert fallen.verdict.startswith("too noisy to tell")


def _among_others(
    gain: float,
    auc_gain_S: list[float],
    *,
    name: str = "recall",
    rate: float = 0.4,
    families: list[str] | None = None,
    others: int = 6,
) -> Step:
    """A step between the last two versions; the others lie along a line with that rate, but for noise."""
    generator = np.random.default_rng(1)
    x_V = np.r_[np.linspace(0.3, 0.6, others), 0.4, 0.4 + gain]
    y_VS = 0.6 + rate * x_V[:, None] + generator.normal(0, 0.002, (others + 2, 3))
    y_VS[-2:] = 0.7 + np.array([np.zeros(3), auc_gain_S])
    names = list(versions(others + 2).names)
    found = steps(
        [_metric(name, x_V, noise=0.001)],
        [Outcome("auc", ALL, y_VS, None)],
        Versions(names, families or names),
        [(names[-2], names[-1])],
    )
    return found[0]


def test_gain_that_falls_short_of_what_others_promise_is_worth_nothing() -> None:
    step = _among_others(0.1, [0.001, -0.002, 0.0])
    assert step.promised == pytest.approx(0.04, rel=0.1)
    assert step.shortfall == pytest.approx(step.outcome_difference - step.promised)
    assert step.shortfall_ci_low < step.shortfall < step.shortfall_ci_high < 0
    assert step.verdict.startswith(
        "worth nothing: the study excludes what the rate of the others promises, +0.0"
    )


@pytest.mark.parametrize(("gain", "auc_gains"), [(0.005, [0.001, -0.002, 0.0]), (0.1, [0.06, -0.05, 0.01])])
def test_gain_that_the_study_could_not_have_seen_is_too_noisy_to_tell(
    gain: float, auc_gains: list[float]
) -> None:
    step = _among_others(gain, auc_gains)
    assert step.outcome_ci_low < 0 < step.outcome_ci_high
    assert step.shortfall_ci_high > 0
    assert step.verdict.startswith(
        "too noisy to tell: the study does not exclude what the rate of the others"
    )


def test_falling_loss_that_falls_short_is_worth_nothing() -> None:
    step = _among_others(-0.1, [0.001, -0.002, 0.0], name=LOSS, rate=-0.4)
    assert step.promised > 0
    assert step.verdict.startswith("worth nothing: the study excludes")


def test_gain_of_a_metric_that_goes_with_losses_promises_nothing() -> None:
    step = _among_others(0.1, [0.001, -0.002, 0.0], rate=-0.4)
    assert step.promised < 0
    assert step.verdict.startswith("too noisy to tell")


def test_neither_version_nor_their_trainings_vouch_for_themselves() -> None:
    alone = [f"v{number}" for number in range(COUNT)]
    free = _among_others(0.1, [0.001, -0.002, 0.0], families=alone)
    with_training = _among_others(0.1, [0.001, -0.002, 0.0], families=["run", *alone[1:7], "run"])
    assert free.promised != pytest.approx(with_training.promised, rel=1e-6)
    fewer = _among_others(0.1, [0.001, -0.002, 0.0], families=["run", "run", *alone[2:7], "run"])
    assert fewer.promised is None
    assert fewer.verdict.startswith("too noisy to tell: the other versions establish no rate")


def test_others_that_are_too_few_promise_nothing() -> None:
    assert _among_others(0.1, [0.001, -0.002, 0.0], others=5).promised is not None
    assert _among_others(0.1, [0.001, -0.002, 0.0], others=4).promised is None


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
