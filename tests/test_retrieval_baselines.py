from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.data.ragged import Ragged
from ctr.retrieval import item_knn
from ctr.retrieval.content_mean import content_mean_candidates
from ctr.retrieval.item_knn import SHRINK, ItemKnn
from ctr.retrieval.part_search import part_candidates
from ctr.retrieval.popularity import filled_with_popularity, popularity_candidates
from moonrec.embedding_set import EmbeddingSet, EmbeddingSetWriter

ITEMS = 12
LISTS = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=8), min_size=1, max_size=6)
EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(-1, ITEMS - 1)), max_size=60)
K = st.integers(1, ITEMS + 3)


def ragged(lists: list[list[int]], distinct: bool = True) -> Ragged:
    rows = [sorted(set(one)) if distinct else one for one in lists]
    return Ragged.of_lengths(
        np.array([value for row in rows for value in row], np.int64), np.array([len(row) for row in rows])
    )


def best_first(score_of: dict[int, float], left_out: list[int], k: int) -> list[int]:
    ranked = sorted((item for item in score_of if item not in left_out), key=lambda i: (-score_of[i], i))
    return (ranked + [-1] * k)[: min(k, ITEMS)]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=ITEMS, max_size=ITEMS), LISTS, K)
def test_popularity_is_the_sorted_counts_without_what_is_masked_or_never_taken(
    counts: list[int], masked: list[list[int]], k: int
) -> None:
    found = popularity_candidates(np.array(counts), ragged(masked), k)
    taken = {item: float(count) for item, count in enumerate(counts) if count}
    assert found.tolist() == [best_first(taken, one, k) for one in masked]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=ITEMS, max_size=ITEMS), LISTS, st.integers(0, 99), K)
def test_a_short_list_goes_on_with_what_is_popular_and_new_to_it(
    counts: list[int], masked: list[list[int]], seed: int, k: int
) -> None:
    rng, lists = np.random.default_rng(seed), np.full((len(masked), min(k, ITEMS)), -1)
    for row, left_out in zip(lists, masked, strict=True):
        drawn = rng.permutation(np.setdiff1d(np.arange(ITEMS), left_out))[: rng.integers(0, len(row) + 1)]
        row[: len(drawn)] = drawn
    found = filled_with_popularity(lists, np.array(counts), ragged(masked))
    taken = {item: float(count) for item, count in enumerate(counts) if count}
    for filled, listed, left_out in zip(found.tolist(), lists.tolist(), masked, strict=True):
        own = [item for item in listed if item >= 0]
        assert filled == (own + best_first(taken, left_out + own, k))[: len(listed)]


def neighbours_by_loop(pairs: list[tuple[int, int]], most: int) -> dict[int, dict[int, float]]:
    items_of: dict[int, list[int]] = {}
    for user, item in pairs:
        if item >= 0:
            mine = items_of.setdefault(user, [])
            mine[:] = [one for one in mine if one != item] + [item]
    items_of = {user: mine[-most:] for user, mine in items_of.items()}
    weight = {user: np.log(1 + len(items_of) / len(mine)) for user, mine in items_of.items()}
    events = sum(len(mine) for mine in items_of.values())
    average = sum(weight[user] * len(mine) for user, mine in items_of.items()) / max(events, 1)
    both = np.zeros((ITEMS, ITEMS))
    for user, mine in items_of.items():
        both[np.ix_(mine, mine)] += weight[user] / average
    norm = np.sqrt(np.diag(both))
    similarity = both / (np.outer(norm, norm) + SHRINK)
    return {
        i: {j: similarity[i, j] for j in range(ITEMS) if j != i and similarity[i, j] > 0}
        for i in range(ITEMS)
    }


@settings(max_examples=80, deadline=None)
@given(EVENTS, st.integers(1, 5), st.integers(1, 4))
def test_neighbours_are_the_greatest_shrunken_cosines_of_the_users_last_items(
    events: list[tuple[int, int]], most: int, neighbours: int
) -> None:
    user, item = (np.array([event[part] for event in events], np.int64) for part in range(2))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(item_knn, "MOST_ITEMS_OF_A_USER", most)
        patched.setattr(item_knn, "NEIGHBOURS", neighbours)
        found = ItemKnn.fit(user, item, ITEMS)
    expected = neighbours_by_loop(events, most)
    for i in range(ITEMS):
        part = slice(found.offset_N1[i], found.offset_N1[i + 1])
        ranked = sorted(expected[i].values(), reverse=True)[:neighbours]
        np.testing.assert_allclose(found.weight_E[part], ranked, rtol=1e-6)
        # Positions of equal cosines may differ by rounding: each has the cosine it is listed with.
        mine = [expected[i][j] for j in found.item_E[part].tolist()]
        np.testing.assert_allclose(found.weight_E[part], mine, rtol=1e-6)


@settings(max_examples=80, deadline=None)
@given(EVENTS, LISTS, st.data(), K)
def test_item_knn_sums_the_neighbours_of_the_historys_distinct_items(
    events: list[tuple[int, int]], history: list[list[int]], data: st.DataObject, k: int
) -> None:
    user, item = (np.array([event[part] for event in events], np.int64) for part in range(2))
    masked = data.draw(
        st.lists(st.lists(st.integers(0, ITEMS - 1)), min_size=len(history), max_size=len(history))
    )
    found = ItemKnn.fit(user, item, ITEMS).candidates(ragged(history, distinct=False), ragged(masked), k)
    near = neighbours_by_loop(events, 500)
    assert found.shape == (len(history), min(k, ITEMS))
    for row, mine, left_out in zip(found.tolist(), history, masked, strict=True):
        total: dict[int, float] = {}
        for behaviour in set(mine):
            for other, weight in near[behaviour].items():
                total[other] = total.get(other, 0.0) + weight
        expected = best_first(total, left_out, k)
        listed = [item for item in row if item >= 0]
        assert len(set(listed)) == len(listed) == sum(item >= 0 for item in expected)
        assert not set(listed) & set(left_out)
        wanted = [total[item] for item in expected if item >= 0]
        np.testing.assert_allclose([total[item] for item in listed], wanted, rtol=1e-5)


def test_item_knn_is_the_same_in_every_run_and_the_more_frequent_item_wins_ties() -> None:
    rng = np.random.default_rng(0)
    user, item = np.sort(rng.integers(0, 3_000, 30_000)), rng.integers(0, 1_000, 30_000)
    user, item = np.unique(np.stack([user, item]), axis=1)
    first, again = ItemKnn.fit(user, item, 1_000), ItemKnn.fit(user, item, 1_000)
    assert first.item_E.tobytes() == again.item_E.tobytes()
    assert first.weight_E.tobytes() == again.weight_E.tobytes()
    weight, near = first.weight_E, first.item_E
    row = np.repeat(np.arange(1_000), np.diff(first.offset_N1))
    same_row = row[1:] == row[:-1]
    assert (weight[1:] <= weight[:-1])[same_row].all()
    tie = same_row & (weight[1:] == weight[:-1])
    place = np.argsort(np.argsort(-np.bincount(item, minlength=1_000), kind="stable"))
    assert tie.any()
    assert (place[near[1:]] > place[near[:-1]])[tie].all()


@pytest.mark.alone
def test_item_knn_of_a_large_log_is_fast_enough_to_stand_in_every_report() -> None:
    rng = np.random.default_rng(0)
    user, item = np.sort(rng.integers(0, 20_000, 400_000)), rng.zipf(1.3, 400_000) % 50_000
    ItemKnn.fit(user[:100], item[:100], 50_000)
    start = time.perf_counter()
    ItemKnn.fit(user, item, 50_000)
    # .5 s on one idle core; a loop over pairs in Python takes minutes.
    assert time.perf_counter() - start < 10


@settings(max_examples=60, deadline=None)
@given(LISTS, st.data(), K, st.integers(0, 99))
def test_content_mean_ranks_covered_items_by_their_cosine_to_the_history(
    history: list[list[int]], data: st.DataObject, k: int, seed: int
) -> None:
    masked = data.draw(
        st.lists(st.lists(st.integers(0, ITEMS - 1)), min_size=len(history), max_size=len(history))
    )
    among = np.array(data.draw(st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS)))
    rng = np.random.default_rng(seed)
    frozen = rng.standard_normal((ITEMS, 5))
    frozen /= np.linalg.norm(frozen, axis=1, keepdims=True)
    frozen[rng.random(ITEMS) < 0.3] = 0
    frozen = frozen.astype(np.float32)
    found = content_mean_candidates(frozen, ragged(history, distinct=False), ragged(masked), k, among)
    for row, mine, left_out in zip(found.tolist(), history, masked, strict=True):
        mean = frozen[mine].sum(axis=0, dtype=np.float64)
        scores = frozen @ mean
        free = {i for i in range(ITEMS) if frozen[i].any() and among[i]} - set(left_out)
        listed = [i for i in row if i >= 0] if mean.any() else []
        assert row == listed + [-1] * (min(k, ITEMS) - len(listed))
        assert set(listed) <= free
        assert len(set(listed)) == len(listed) == (min(k, len(free)) if mean.any() else 0)
        # Items may differ by rounding alone, and come in either order: a + b is as near to a as to b.
        best = sorted(scores[list(free)], reverse=True)[: len(listed)]
        np.testing.assert_allclose(scores[listed], best, rtol=0, atol=1e-5)


def test_a_part_is_searched_alike_in_an_array_and_in_an_embedding_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((300, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    with EmbeddingSetWriter(tmp_path / "set", 8, {}) as writer:
        writer.write([f"i{item}" for item in range(300)], vectors)
    part = rng.random(300) < 0.4
    query = rng.standard_normal((5, 8)).astype(np.float32)
    masked = ragged([np.flatnonzero(part)[:2].tolist(), [0, 1], [], [299], list(range(300))])
    stored = EmbeddingSet.open(tmp_path / "set")
    found = [part_candidates(query, source, part, masked, 20) for source in (vectors, stored)]
    np.testing.assert_array_equal(found[0], found[1])
    assert part[found[0][:4]].all()
    assert (found[0][4] == -1).all()


def test_without_training_events_or_items_no_baseline_finds_anything() -> None:
    none = np.zeros(0, np.int64)
    history = ragged([[0], []])
    assert (ItemKnn.fit(none, none, 3).candidates(history, ragged([[], []]), 2) == -1).all()
    assert (popularity_candidates(np.zeros(3, np.int64), ragged([[], []]), 2) == -1).all()
    assert content_mean_candidates(np.zeros((3, 4), np.float32), history, ragged([[], []]), 2).max() == -1
    assert popularity_candidates(none, ragged([[]]), 2).shape == (1, 0)
