from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonrec.auc_influence import auc_influence, gauc_influence
from moonrec.metrics import auc, gauc

Influence = Callable[..., np.ndarray]


def log(seed: int, users: int, most_rows: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users differ in their number of rows, in their share of positives and in how well they are ranked."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, most_rows, users)
    user = np.repeat(np.arange(users), rows)
    labels = (rng.random(len(user)) < rng.beta(2, 3, users)[user]).astype(int)
    skill = rng.normal(0.8, 0.6, users)[user]
    level = rng.normal(0, 0.7, users)[user]
    scores = np.round(labels * skill + level + rng.normal(size=len(user)), 1)
    return user, labels, scores


def value(influence: Influence, user: np.ndarray, *rest: np.ndarray) -> float | None:
    return gauc(user, *rest) if influence is gauc_influence else auc(*rest)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 40))
def test_influences_sum_to_zero_and_are_the_derivative_by_the_users_weight(seed: int, users: int) -> None:
    user, labels, scores = log(seed, users)
    for influence in (auc_influence, gauc_influence):
        found = influence(user, labels, scores, users)
        if np.isnan(found).all():
            continue
        assert found.sum() == pytest.approx(0, abs=1e-12)
        of = np.arange(users)
        if influence is gauc_influence:
            of = of[[len(set(labels[user == each].tolist())) == 2 for each in of]]
            assert not np.delete(found, of).any()
        step = 1e-5
        for each in of[:6]:
            high, low = (
                value(influence, user, labels, scores, 1 + sign * step * (user == each)) for sign in (1, -1)
            )
            assert high is not None
            assert low is not None
            factor = np.sqrt(len(of) / (len(of) - 1))
            assert found[each] == pytest.approx(factor * (high - low) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("influence", [auc_influence, gauc_influence])
def test_the_squares_sum_to_the_variance_over_samples_of_users(influence: Influence) -> None:
    users, samples = 300, 300
    drawn, claimed = [], []
    for seed in range(samples):
        user, labels, scores = log(seed, users)
        drawn.append(value(influence, user, labels, scores))
        claimed.append(np.sum(influence(user, labels, scores, users) ** 2))
    assert np.sqrt(np.mean(claimed)) == pytest.approx(np.array(drawn, dtype=float).std(), rel=0.12)


@pytest.mark.parametrize("influence", [auc_influence, gauc_influence])
def test_they_agree_with_a_bootstrap_over_users_also_for_a_difference(influence: Influence) -> None:
    users = 400
    user, labels, scores = log(1, users)
    other = np.round(0.5 * scores + np.random.default_rng(0).normal(0.3 * labels, 0.5), 1)
    rng = np.random.default_rng(2)
    values = []
    for _ in range(400):
        weights = np.bincount(rng.integers(0, users, users), minlength=users)[user]
        values.append([value(influence, user, labels, each, weights) for each in (scores, other)])
    one, two = (influence(user, labels, each, users) for each in (scores, other))
    first, second = np.array(values, dtype=float).T
    assert np.sqrt(one @ one) == pytest.approx(first.std(), rel=0.12)
    assert np.sqrt((one - two) @ (one - two)) == pytest.approx((first - second).std(), rel=0.12)


def test_with_a_cluster_per_row_it_is_delongs_variance() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [120, 200])
    scores = np.round(labels + rng.normal(size=320), 1)
    wins = np.sign(scores[:120, None] - scores[None, 120:]) / 2 + 0.5
    delong = wins.mean(axis=1).var(ddof=1) / 120 + wins.mean(axis=0).var(ddof=1) / 200
    found = auc_influence(np.arange(320), labels, scores, 320)
    assert found @ found == pytest.approx(delong, rel=0.01)


@pytest.mark.parametrize("influence", [auc_influence, gauc_influence])
def test_it_depends_neither_on_the_order_of_rows_nor_on_clusters_without_any(influence: Influence) -> None:
    user, labels, scores = log(3, 50)
    shuffled = np.random.default_rng(0).permutation(len(user))
    found = influence(2 * user[shuffled], labels[shuffled], scores[shuffled], 101)
    np.testing.assert_allclose(found[:100:2], influence(user, labels, scores, 50), atol=1e-15)
    assert not found[1::2].any()


@pytest.mark.parametrize("influence", [auc_influence, gauc_influence])
def test_what_has_no_variance_is_nan_and_bad_clusters_are_refused(influence: Influence) -> None:
    assert np.isnan(influence(np.array([0, 1]), [1, 1], [0.1, 0.2], 2)).all()
    assert np.isnan(influence(np.array([0, 0]), [1, 0], [0.1, 0.2], 2)).all()
    assert np.isnan(influence(np.array([], int), [], [], 2)).all()
    with pytest.raises(ValueError, match="outside"):
        influence(np.array([0, 2]), [1, 0], [0.1, 0.2], 2)
    with pytest.raises(ValueError, match="NaN"):
        influence(np.array([0, 1]), [1, 0], [0.1, np.nan], 2)
