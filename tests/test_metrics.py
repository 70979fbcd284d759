from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from moonrec.metrics import (
    FREQUENCY_GROUPS,
    auc,
    auc_by_group,
    auc_per_user,
    frequency_groups,
    gauc,
    log_loss,
    ranking_metrics,
)

# Halves add up without rounding, so that a weight of 0 is the only way to vanish.
WEIGHT = st.integers(0, 6).map(lambda number: number / 2)
ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(-2, 2)), max_size=40)


def gauc_by_loop(users: list, labels: list, scores: list, weights: list | None = None) -> float | None:
    aucs, sums = [], []
    for user in set(users):
        mine = [row for row, other in enumerate(users) if other == user and (not weights or weights[row])]
        if len({labels[row] for row in mine}) == 2:
            mine_weights = [weights[row] for row in mine] if weights else [1] * len(mine)
            values = ([part[row] for row in mine] for part in (labels, scores))
            aucs.append(roc_auc_score(*values, sample_weight=mine_weights))
            sums.append(sum(mine_weights))
    return float(np.average(aucs, weights=sums)) if aucs else None


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_gauc_equals_a_loop_over_users_ties_included(rows: list[tuple[int, int, int]]) -> None:
    users, labels, scores = ([row[part] for row in rows] for part in range(3))
    expected = gauc_by_loop(users, labels, scores)
    found = gauc(np.array(users, dtype=np.int64), labels, scores)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(-2, 2), WEIGHT), max_size=40))
def test_weighted_auc_and_gauc_equal_sklearn(rows: list[tuple[int, int, int, float]]) -> None:
    users, labels, scores, weights = ([row[part] for row in rows] for part in range(4))
    for found, expected in (
        (gauc(np.array(users, int), labels, scores, weights), gauc_by_loop(users, labels, scores, weights)),
        (auc(labels, scores, weights), gauc_by_loop([0] * len(rows), labels, scores, weights)),
    ):
        assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_a_weight_of_two_is_the_row_given_twice(rows: list[tuple[int, int, int]]) -> None:
    users, labels, scores = (np.array([row[part] for row in rows], int) for part in range(3))
    weights = 1 + np.arange(len(rows)) % 2
    twice = [np.repeat(part, weights) for part in (users, labels, scores)]
    assert gauc(users, labels, scores, weights) == gauc(*twice)


def test_weights_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="2 of 3 weights are negative or not finite"):
        auc([0, 1, 1], [0.1, 0.2, 0.3], [1, -1, np.inf])
    with pytest.raises(ValueError, match="weights for 3 labels"):
        auc([0, 1, 1], [0.1, 0.2, 0.3], [1, 1])


def test_auc_per_user_marks_users_without_both_classes() -> None:
    aucs, weights = auc_per_user(np.array([2, 2, 0, 2]), [0, 1, 1, 1], [0.3, 0.5, 0.1, 0.3], 4)
    np.testing.assert_array_equal(aucs, [np.nan, np.nan, 0.75, np.nan])
    assert weights.tolist() == [1, 0, 3, 0]
    with pytest.raises(ValueError, match="outside"):
        auc_per_user(np.array([4]), [0], [0.3], 4)


@settings(max_examples=50, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_gauc_depends_neither_on_row_order_nor_on_the_kind_of_user_id(rows: list, random: object) -> None:
    def value(kind: str) -> float | None:
        users, labels, scores = ([row[part] for row in rows] for part in range(3))
        names = [f"u{user}" for user in users]
        ids = {
            "integer": np.array(users, dtype=np.int32),
            "object": np.array(names, dtype=object),
            "fixed": np.array(names, dtype="U8"),
            "arrow": pa.chunked_array([pa.array(names[:3], pa.string()), pa.array(names[3:], pa.string())]),
        }
        return gauc(ids[kind], labels, scores)

    values = [value(kind) for kind in ("integer", "object", "fixed", "arrow")]
    random.shuffle(rows)  # type: ignore[attr-defined]
    values.append(value("integer"))
    assert all(other == (None if other is None else pytest.approx(values[0], abs=1e-12)) for other in values)


def test_gauc_weights_users_by_their_rows_and_leaves_one_class_users_out() -> None:
    users = ["a", "a", "b", "b", "b", "b", "c", "c"]
    labels = [0, 1, 1, 0, 0, 0, 1, 1]
    scores = [0.1, 0.9, 0.0, 0.5, 0.5, 0.5, 0.3, 0.4]
    assert gauc(users, labels, scores) == pytest.approx((2 * 1.0 + 4 * 0.0) / 6)


@pytest.mark.alone
def test_gauc_of_a_million_rows_takes_about_a_second_at_most() -> None:
    rng = np.random.default_rng(0)
    users, labels = rng.integers(0, 100_000, 1_000_000), rng.integers(0, 2, 1_000_000)
    start = time.perf_counter()
    assert gauc(users, labels, rng.random(1_000_000)) == pytest.approx(0.5, abs=0.01)
    assert time.perf_counter() - start < 5  # .4 s on an idle core; a loop over users takes minutes


def test_gauc_refuses_users_that_are_null() -> None:
    with pytest.raises(ValueError, match="1 of 3 users are null"):
        gauc(pa.array(["a", None, "a"]), [0, 1, 1], [0.1, 0.2, 0.3])


def test_auc_is_none_for_one_class_and_equals_sklearn_otherwise() -> None:
    assert auc([1, 1], [0.2, 0.3]) is None
    assert auc([], []) is None
    labels, scores = np.array([0, 1, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.4, 0.9], dtype=np.float32)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    random = np.random.default_rng(0)
    for ties in (3, 1_000):
        labels, many = random.integers(0, 2, 500), random.integers(0, ties, 500) / ties
        assert auc(labels, many) == pytest.approx(roc_auc_score(labels, many))


@pytest.mark.parametrize("metric", [auc, log_loss, lambda y, s: gauc(["a"] * len(y), y, s)])
def test_bad_scores_and_labels_are_counted_not_ranked(metric: object) -> None:
    with pytest.raises(ValueError, match="2 of 3 scores are NaN"):
        metric([0, 1, 1], [float("nan"), 0.5, float("nan")])  # type: ignore[operator]
    with pytest.raises(ValueError, match="labels other than 0 and 1"):
        metric([0, 1, 2], [0.1, 0.5, 0.9])  # type: ignore[operator]
    with pytest.raises(ValueError, match="expected"):
        metric([0, 1, 1], [0.1, 0.5])  # type: ignore[operator]


def test_log_loss_equals_its_formula_and_survives_saturated_probabilities() -> None:
    labels, probabilities = np.array([0, 1, 1]), np.array([0.25, 0.5, 0.9])
    expected = -np.mean(np.log(np.where(labels == 1, probabilities, 1 - probabilities)))
    assert log_loss(labels, probabilities) == pytest.approx(expected)
    assert log_loss([1], [1.0]) == pytest.approx(0, abs=1e-6)
    assert 10 < log_loss([1], [0.0]) < 20
    with pytest.raises(ValueError, match="expected \\[0, 1\\]"):
        log_loss([1], [1.5])


def test_auc_by_group_lists_the_named_groups_even_when_empty() -> None:
    result = auc_by_group(["rare", "common", "rare"], [0, 1, 1], [0.2, 0.5, 0.1], names=FREQUENCY_GROUPS)
    assert result == [
        {"group": "new", "rows": 0, "auc": None},
        {"group": "rare", "rows": 2, "auc": 0.0},
        {"group": "common", "rows": 1, "auc": None},
    ]
    with pytest.raises(ValueError, match="not among"):
        auc_by_group(["medium"], [0], [0.2], names=FREQUENCY_GROUPS)


def test_frequency_groups_split_the_training_rows_in_halves() -> None:
    train_counts = np.array([1, 1, 2, 4, 8])  # 16 rows; 1 + 1 + 2 + 4 = 8 of them are the rarer half
    rows = np.array([0, 1, 2, 4, 8, 100])
    expected = ["new", "rare", "rare", "rare", "common", "common"]
    assert frequency_groups(rows, train_counts).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=30))
def test_rare_items_never_hold_more_than_half_of_the_training_rows(train_counts: list[int]) -> None:
    counts = np.array(train_counts, dtype=np.int64)
    groups = frequency_groups(counts, counts)
    assert (groups == "new").tolist() == (counts == 0).tolist()
    rare, common = counts[groups == "rare"], counts[groups == "common"]
    assert rare.sum() * 2 <= counts.sum()
    assert not (rare.size and common.size) or rare.max() < common.min()


def test_ranking_metrics_follow_both_definitions_of_recall() -> None:
    # Query 0: positives at ranks 1 and 4; query 1: one of its three positives found, at rank 2.
    metrics = ranking_metrics(np.array([1, 4, 2]), np.array([0, 0, 1]), np.array([2, 3]), ks=(1, 2, 5))
    assert metrics["hit@1"] == 0.5
    assert metrics["hit@2"] == metrics["hit@5"] == 1.0
    assert metrics["recall@1"] == pytest.approx((1 / 1 + 0) / 2)
    assert metrics["recall@2"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert metrics["recall@5"] == pytest.approx((2 / 2 + 1 / 3) / 2)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 2) / 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_ndcg_equals_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores_QN = rng.permuted(np.tile(np.arange(30.0), (5, 1)), axis=1)
    relevant_QN = rng.random((5, 30)) < rng.uniform(0.05, 0.9)
    relevant_QN[:, 0] = True
    query_of_P, row_P = np.nonzero(relevant_QN)
    ranks_P = (30 - scores_QN[query_of_P, row_P]).astype(np.int64)
    metrics = ranking_metrics(ranks_P, query_of_P, relevant_QN.sum(axis=1))
    assert metrics["ndcg@10"] == pytest.approx(ndcg_score(relevant_QN, scores_QN, k=10))
    assert metrics["mrr"] == pytest.approx(np.mean([1 / ranks_P[query_of_P == q].min() for q in range(5)]))


@pytest.mark.parametrize(
    ("ranks", "queries", "positives", "message"),
    [
        ([1], [0], [1, 0], "1 of 2 queries have no positive"),
        ([], [], [], "no positive"),
        ([0], [0], [1], "ranks start at 1"),
        ([1, 2], [0, 0], [1], "more ranks than positives"),
        ([3, 3], [0, 0], [2], "given twice"),
        ([3], [1], [1], "outside"),
    ],
)
def test_ranking_metrics_refuse_what_has_no_meaning(
    ranks: list[int], queries: list[int], positives: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ranking_metrics(np.array(ranks, int), np.array(queries, int), np.array(positives, int))
