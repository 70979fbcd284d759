from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from ctr.data.ragged import Ragged
from ctr.retrieval.candidate_metrics import KS, ranks_of, retrieval_metrics
from ctr.retrieval.differences import differences
from ctr.retrieval.frequency_groups import count_ranges, recall_by_frequency
from ctr.retrieval.method_comparison import compare_methods
from ctr.retrieval.popularity import popularity_candidates
from ctr.retrieval.positives import Positives, new_positives

ITEMS = 15


@st.composite
def judged_lists(draw: st.DrawFn) -> tuple[np.ndarray, list[list[int]]]:
    """Lists of candidates, some ending early, and each request's positives, -1 for those not listed."""
    count, k = draw(st.integers(1, 5)), draw(st.integers(1, ITEMS))
    lists = np.full((count, k), -1)
    for row in lists:
        own = draw(st.permutations(range(ITEMS)))[: draw(st.integers(0, k))]
        row[: len(own)] = own
    positive = st.lists(st.integers(-1, ITEMS - 1), min_size=1, max_size=8, unique=True)
    return lists, draw(st.lists(positive, min_size=count, max_size=count))


def pairs_of(positives: list[list[int]]) -> Positives:
    return Positives(
        np.repeat(np.arange(len(positives)), [len(one) for one in positives]),
        np.array([item for one in positives for item in one], np.int64),
        np.array([len(one) for one in positives]),
    )


@settings(max_examples=150, deadline=None)
@given(judged_lists(), st.integers(1, 12))
def test_metrics_equal_a_loop_over_requests_and_sklearn(
    drawn: tuple[np.ndarray, list[list[int]]], k: int
) -> None:
    lists, positives = drawn
    pairs = pairs_of(positives)
    found, per_request = retrieval_metrics(lists, pairs.query_P, pairs.item_P, pairs.count_Q, ITEMS, (k,))
    recall, reciprocal, ndcg = [], [], []
    for row, wanted in zip(lists.tolist(), positives, strict=True):
        listed = [item for item in row if item >= 0]
        recall.append(len(set(listed[:k]) & set(wanted)) / min(k, len(wanted)))
        ranks = [place for place, item in enumerate(listed, 1) if item in wanted]
        reciprocal.append(1 / ranks[0] if ranks else 0.0)
        # What a request never lists comes last; misses outside the catalogue are items of their own.
        unlisted = [item for item in range(ITEMS + 1) if item not in listed]
        relevant = [(item if item < ITEMS else -1) in wanted for item in listed + unlisted]
        gains = np.where(np.arange(len(relevant)) < len(listed), relevant, False)
        ideal = sum(1 / np.log2(place + 2) for place in range(min(10, len(wanted))))
        scores = np.arange(len(relevant), 0, -1)
        # scikit-learn divides by the best order of the gains it is shown, which lacks what was never listed.
        shown_ideal = sum(1 / np.log2(place + 2) for place in range(min(10, int(gains.sum()))))
        ndcg.append(ndcg_score([gains], [scores], k=10) * shown_ideal / ideal)
    np.testing.assert_allclose(per_request[f"recall@{k}"], recall)
    np.testing.assert_allclose(per_request["mrr"], reciprocal)
    np.testing.assert_allclose(per_request["ndcg@10"], ndcg, atol=1e-12)
    assert found[f"recall@{k}"] == pytest.approx(np.mean(recall))
    shown = {item for row in lists[:, :10].tolist() for item in row if item >= 0}
    assert found["coverage@10"] == pytest.approx(len(shown) / ITEMS)
    exposure = [int((lists == item).sum()) for item in range(ITEMS)]
    apart = sum(abs(one - other) for one in exposure for other in exposure)
    gini = apart / (2 * ITEMS * sum(exposure)) if sum(exposure) else None
    assert found["gini@100"] == (None if gini is None else pytest.approx(gini))


@settings(max_examples=100, deadline=None)
@given(judged_lists())
def test_ranks_are_places_in_the_list_and_a_longer_list_never_lowers_recall(
    drawn: tuple[np.ndarray, list[list[int]]],
) -> None:
    lists, positives = drawn
    pairs = pairs_of(positives)
    rows = [lists[query].tolist() for query in pairs.query_P]
    expected = [
        row.index(item) + 1 if item >= 0 and item in row else 0
        for row, item in zip(rows, pairs.item_P.tolist(), strict=True)
    ]
    assert ranks_of(lists, pairs.query_P, pairs.item_P).tolist() == expected
    arguments = (pairs.query_P, pairs.item_P, pairs.count_Q, ITEMS)
    short, whole = (retrieval_metrics(one, *arguments)[1] for one in (lists[:, : lists.shape[1] // 2], lists))
    assert all((short[f"recall@{k}"] <= whole[f"recall@{k}"]).all() for k in KS)


def test_requests_that_cannot_be_judged_are_refused() -> None:
    lists, one = np.array([[0, 1]]), np.array([0])
    with pytest.raises(ValueError, match="no positive, or more pairs than positives"):
        retrieval_metrics(lists, np.array([0, 0]), np.array([1, 2]), one + 1, 3)
    with pytest.raises(ValueError, match="no positive"):
        retrieval_metrics(lists, one[:0], one[:0], one, 3)
    with pytest.raises(ValueError, match="1 lists of candidates for 2 requests"):
        retrieval_metrics(lists, one, one, np.array([1, 1]), 3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60))
def test_frequency_ranges_hold_every_count_once_and_are_about_quarters(
    counts: list[int],
) -> None:
    ranges = count_ranges(np.array(counts, np.int64))
    assert ranges[0] == (0, 0)
    assert len(ranges) <= 5
    for count in counts:
        assert sum(low <= count <= high for low, high in ranges) == 1
    known = [count for count in counts if count]
    sizes = [sum(low <= count <= high for count in known) for low, high in ranges[1:]]
    assert all(sizes)
    # A range passes a quarter only by the items of the count that it ends with.
    for size, (_, high) in zip(sizes, ranges[1:], strict=True):
        assert size - known.count(high) < len(known) / 4 + 1


def test_groups_split_the_positives_and_each_is_judged_on_its_own_part() -> None:
    count = np.array([0, 0, 1, 1, 5, 5, 9, 9])
    # Request 0 wants a new item and a common one, request 1 a rare one and one that the catalogue lacks.
    positives = pairs_of([[0, 6], [2, -1], [4], [7]])
    lists = np.array([[0, 1], [2, 3], [5, 6], [7, -1]])
    groups = recall_by_frequency({"model": lists, "other": lists[:, ::-1] * 0 - 1}, positives, count)
    told = {group["group"]: group for group in groups}
    assert list(told) == ["new", "1", "5", "9"]
    assert told["new"]["recall@100"] == {"model": 1.0, "other": 0.0}
    assert told["new"]["requests"] == 1
    assert told["1"]["recall@100"]["model"] == 1.0
    assert told["5"]["recall@100"]["model"] == 0.0
    assert told["9"]["recall@100"]["model"] == 0.5
    assert told["9"]["requests"] == 2
    assert sum(group["positives"] for group in groups) == 5


def test_a_difference_covers_the_truth_as_often_as_its_interval_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    for seed in range(60):
        user = np.repeat(np.arange(150), 6)
        # Requests of one user share most of their advantage: intervals over requests would be too narrow.
        advantage = 0.05 + np.repeat(rng.normal(0, 0.3, 150), 6) + rng.normal(0, 0.1, 900)
        values = {"recall@100": advantage, "ndcg@10": advantage}
        baseline = {name: np.zeros(900) for name in values}
        found = differences({"model": values, "popularity": baseline}, user, "all", seed)[0]
        covered += found["ci_low"] <= 0.05 <= found["ci_high"]
        assert found["difference"] == pytest.approx(advantage.mean())
    assert 52 <= covered <= 60


def test_a_difference_over_one_user_has_no_interval_and_none_is_told_without_requests() -> None:
    values = {"recall@100": np.array([1.0, 0.0]), "ndcg@10": np.array([0.5, 0.5])}
    per_request = {"model": values, "item_knn": values}
    first = differences(per_request, np.array([3, 3]), "new", 0)[0]
    assert (first["group"], first["difference"], first["ci_low"], first["ci_high"]) == (
        "new",
        0.0,
        None,
        None,
    )
    nothing = {"recall@100": np.zeros(0), "ndcg@10": np.zeros(0)}
    assert differences({"model": nothing, "item_knn": nothing}, np.zeros(0, np.int64), "new", 0) == []


def test_methods_are_compared_on_all_requests_and_on_those_for_new_items() -> None:
    rng = np.random.default_rng(0)
    requests, items = 400, 300
    count = rng.integers(1, 50, items)
    count[200:] = 0
    target = rng.integers(0, items, requests)
    positives = Positives(np.arange(requests), target, np.ones(requests, np.int64))
    others = (target[:, None] + np.arange(1, 150)) % items
    perfect = np.column_stack([target, others])
    nothing_masked = Ragged(np.zeros(0, np.int64), np.zeros(requests + 1, np.int64))
    popular = popularity_candidates(count, nothing_masked, 150)
    _, rows = new_positives(positives, count)
    found = compare_methods(
        {"model": perfect, "popularity": popular, "item_knn": popular}, positives,
        np.arange(requests) // 4, count,
        {"model": perfect[rows][:, :1], "content_mean": others[rows]}, 0,
    )  # fmt: skip
    assert found["test"]["recall@10"] == 1
    assert found["test"]["users"] == 100
    assert found["content_mean"] is None
    new = found["new_items"]
    assert new["requests"] == len(rows) == (target >= 200).sum()
    assert new["items"] == 100
    assert new["test"]["recall@10"] == 1
    assert new["popularity"]["recall@500"] == 0
    assert new["among_new"]["test"]["mrr"] == 1
    assert new["among_new"]["chance"]["recall@10"] == pytest.approx(0.1)
    assert not any(name.startswith("coverage") for name in new["among_new"]["test"])
    apart = {(one["baseline"], one["metric"], one["group"]): one for one in found["differences"]}
    assert len(apart) == len(found["differences"]) == 10
    assert apart["content_mean", "recall@100", "among new"]["ci_low"] == 1
    gain = apart["popularity", "recall@100", "new"]
    assert gain["difference"] == gain["ci_low"] == gain["ci_high"] == 1
    expected = found["test"]["recall@100"] - found["popularity"]["recall@100"]
    assert apart["popularity", "recall@100", "all"]["difference"] == pytest.approx(expected)


def test_without_new_items_their_blocks_are_empty_and_nothing_breaks() -> None:
    positives = Positives(np.arange(2), np.array([0, 1]), np.ones(2, np.int64))
    lists = {"model": np.array([[0], [0]]), "popularity": np.array([[1], [1]])}
    found = compare_methods(lists, positives, np.arange(2), np.array([3, 3]), {}, 0)
    new = found["new_items"]
    assert new["requests"] == 0
    assert new["test"] is None
    assert new["among_new"]["chance"] is None
    assert found["groups"][0]["recall@100"] == {"model": None, "popularity": None}
    assert {one["group"] for one in found["differences"]} == {"all"}
