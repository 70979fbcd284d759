"""The exact search against faiss and scikit-learn. Vectors that tie are compared as sets of equal score."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from sklearn.metrics import coverage_error, label_ranking_average_precision_score, ndcg_score
from sklearn.neighbors import NearestNeighbors

from moonrec.metrics import ranking_metrics
from moonrec.nearest import ranks_of_positives, top_k

KINDS = ("random", "clustered", "tied")
ROWS, QUERIES, WIDTH, K = 6000, 70, 32, 20


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def catalogue_and_queries(kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(KINDS.index(kind))
    vectors, queries = rng.normal(size=(ROWS, WIDTH)), rng.normal(size=(QUERIES, WIDTH))
    if kind == "clustered":
        centres = rng.normal(size=(30, WIDTH))
        vectors = centres[rng.integers(0, 30, ROWS)] + 0.05 * vectors
        queries = centres[rng.integers(0, 30, QUERIES)] + 0.05 * queries
    elif kind == "tied":
        vectors = vectors[rng.integers(0, ROWS // 8, ROWS)]
    return unit(vectors), unit(queries)


def assert_same_up_to_ties(
    ours: tuple[np.ndarray, np.ndarray],
    theirs: tuple[np.ndarray, np.ndarray],
    queries: np.ndarray,
    vectors: np.ndarray,
) -> None:
    """Equal scores, and rows that can be told from each other by score stand at the same place."""
    (our_scores, our_rows), (their_scores, their_rows) = ours, theirs
    np.testing.assert_allclose(our_scores, their_scores, atol=2e-6)
    for rows in (our_rows, their_rows):
        assert all(len(set(row.tolist())) == K for row in rows)
    different = our_rows != their_rows
    query = np.nonzero(different)[0]
    gap = np.einsum("pd,pd->p", queries[query], vectors[our_rows[different]] - vectors[their_rows[different]])
    np.testing.assert_allclose(gap, 0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_agrees_with_faiss(kind: str) -> None:
    vectors, queries = catalogue_and_queries(kind)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(vectors)
    found = top_k(queries, lambda: iter(np.array_split(vectors, 7)), K, block_rows=2048)
    assert_same_up_to_ties(found, index.search(queries, K), queries, vectors)
    if kind == "random":
        assert (found[1] == index.search(queries, K)[1]).mean() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_agrees_with_sklearn(kind: str) -> None:
    vectors, queries = catalogue_and_queries(kind)
    peer = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute").fit(vectors)
    distance, rows = peer.kneighbors(queries)
    assert_same_up_to_ties(top_k(queries, lambda: iter([vectors]), K), (1 - distance, rows), queries, vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_agree_with_the_places_in_a_full_faiss_search(kind: str) -> None:
    vectors, queries = catalogue_and_queries(kind)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(vectors)
    scores, rows = index.search(queries, ROWS)
    query, place = np.repeat(np.arange(QUERIES), 5), np.tile([0, 9, 99, 999, ROWS - 1], QUERIES)
    ranks = ranks_of_positives(queries, lambda: iter([vectors]), (query, rows[query, place]))
    # Rounding and ties leave each a band of places: those whose score is nearly its own.
    own = scores[query, place][:, None]
    first = (scores[query] > own + 1e-6).sum(axis=1) + 1
    last = (scores[query] >= own - 1e-6).sum(axis=1)
    assert ((first <= ranks) & (ranks <= last)).all()
    assert (last - first).max() < {"random": 6, "clustered": 200, "tied": 40}[kind]


def test_metrics_of_our_ranks_agree_with_sklearns_of_the_scores() -> None:
    vectors, queries = catalogue_and_queries("random")
    relevant = np.random.default_rng(9).random((QUERIES, ROWS)) < 0.01
    query, row = np.nonzero(relevant)
    ranks = ranks_of_positives(queries, lambda: iter([vectors]), (query, row))
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    found = ranking_metrics(ranks, query, relevant.sum(axis=1))
    assert found["ndcg@10"] == pytest.approx(ndcg_score(relevant, scores, k=10))
    last = np.array([ranks[query == each].max() for each in range(QUERIES)])
    assert last.mean() == pytest.approx(coverage_error(relevant, scores), abs=0.1)
    precision = [
        np.mean((1 + np.arange(len(of))) / of) for of in (np.sort(ranks[query == q]) for q in range(QUERIES))
    ]
    assert np.mean(precision) == pytest.approx(
        label_ranking_average_precision_score(relevant, scores), rel=1e-3
    )
