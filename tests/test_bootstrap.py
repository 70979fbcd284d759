"""Resampling and the sign-flip test against truth that is known, by theory or by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from moonrec import bootstrap
from moonrec.bootstrap import FLIPS, holm, interval, resampled_counts, resampled_means, sign_flip_p


@pytest.mark.parametrize("counts", [[1] * 40, [30, 5, 5], [2000, 500, 1, 0]])
def test_every_replicate_draws_as_many_units_as_there_are(counts: list[int]) -> None:
    drawn = np.concatenate(list(resampled_counts(np.array(counts), 400, seed=1)))
    assert drawn.shape == (400, len(counts))
    assert (drawn.sum(axis=1) == sum(counts)).all()
    share = np.array(counts) / sum(counts)
    assert np.abs(drawn.mean(axis=0) - counts).max() < 5 * np.sqrt(sum(counts) * share.max() / 400)
    assert drawn.var(axis=0) == pytest.approx(sum(counts) * share * (1 - share), rel=0.35, abs=0.01)


def test_replicates_spread_as_the_standard_error_says() -> None:
    values = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 3.0]
    means = resampled_means(values, 2000, seed=0)
    assert means.std(axis=0) == pytest.approx(values.std(axis=0) / np.sqrt(500), rel=0.1)
    assert (resampled_means(values, 50, seed=3) == resampled_means(values, 50, seed=3)).all()


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(500):
        low, high = interval(resampled_means((rng.random((200, 1)) < 0.3).astype(float), 400, seed))
        covered += bool(low[0] <= 0.3 <= high[0])
    assert 0.90 <= covered / 500 <= 0.98


def test_numbers_that_a_unit_lacks_do_not_count() -> None:
    values = np.array([[1.0, np.nan, np.nan], [3.0, 2.0, np.nan], [5.0, 2.0, np.nan]])
    low, high = interval(resampled_means(values, 500, seed=0))
    assert (low[1], high[1]) == (2.0, 2.0)
    assert 1 <= low[0] < high[0] <= 5
    assert np.isnan([low[2], high[2]]).all()


def test_the_sign_flip_test_is_what_enumeration_finds() -> None:
    differences = np.random.default_rng(3).normal(0.4, 1, 12)
    sums = np.array(list(itertools.product([-1, 1], repeat=12))) @ differences
    exact = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-9)
    found = sign_flip_p(np.append(differences, np.zeros(100))[:, None], seed=0)[0]
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / FLIPS))


def test_for_hits_it_is_mcnemars_exact_test() -> None:
    differences = np.repeat([1.0, -1.0, 0.0], [14, 5, 80])[:, None]
    assert sign_flip_p(differences, seed=0)[0] == pytest.approx(stats.binomtest(5, 19).pvalue, abs=0.01)


def test_without_any_difference_p_is_one_and_with_a_clear_one_it_is_least() -> None:
    columns = np.stack([np.zeros(200), np.ones(200), np.full(200, np.nan)], axis=1)
    assert sign_flip_p(columns, seed=0).tolist() == [1.0, 1 / (FLIPS + 1), 1.0]


def test_without_a_true_difference_p_is_uniform() -> None:
    rng = np.random.default_rng(5)
    p = sign_flip_p(rng.normal(size=(150, 300)), seed=0)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_holm_is_the_published_procedure() -> None:
    assert holm([0.03, 0.01, 0.05, 0.02, 0.04]) == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.04, None, 0.01]) == pytest.approx([0.04, None, 0.02])


def test_how_much_is_drawn_at_once_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((50, 3))
    whole = resampled_means(values, 30, seed=2)
    monkeypatch.setattr(bootstrap, "_NUMBERS_AT_ONCE", 120)
    assert resampled_means(values, 30, seed=2) == pytest.approx(whole)
