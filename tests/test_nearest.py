from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from moonrec.embedding_set import EmbeddingSet, EmbeddingSetWriter
from moonrec.nearest import log_partition, ranks_of_positives, top_k
from moonrec.score_tiles import ScoreTiles


def in_blocks(matrix: np.ndarray, size: int) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (matrix[start : start + size] for start in range(0, len(matrix), size))


def full_ranking(queries: np.ndarray, matrix: np.ndarray, excluded: np.ndarray) -> list[list[int]]:
    """Rows of every query, best first, the lower row first among equals, without the excluded one."""
    rankings = []
    for query, left_out in zip(queries.astype(np.float64), excluded, strict=True):
        order = np.argsort(-(matrix.astype(np.float64) @ query), kind="stable")
        rankings.append([int(row) for row in order if row != left_out])
    return rankings


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Small whole numbers: sums are exact, so ties are many and the reference cannot differ by rounding."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    rows, queries, width = draw(st.integers(1, 400)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    matrix = rng.integers(-2, 3, (rows, width)).astype(np.float16)
    return (
        rng.integers(-2, 3, (queries, width)).astype(np.float32),
        matrix,
        rng.integers(-1, rows, queries),
        draw(st.integers(20, 500)),
    )


@settings(max_examples=50, deadline=None)
@given(problems(), st.integers(20, 500), st.integers(1, 4))
def test_ranks_equal_a_full_stable_sort(problem: tuple, block_rows: int, query_rows: int) -> None:
    queries, matrix, excluded, size = problem
    rankings = full_ranking(queries, matrix, excluded)
    query, row = (part.ravel() for part in np.indices((len(queries), len(matrix))))
    shuffle = np.random.default_rng(0).permutation(len(query))[:300]
    query, row = query[shuffle], row[shuffle]
    ranks = ranks_of_positives(
        queries,
        in_blocks(matrix, size),
        (query, row),
        excluded,
        block_rows=block_rows,
        query_rows=query_rows,
    )
    expected = np.zeros((len(queries), len(matrix)), int)
    for number, ranking in enumerate(rankings):
        expected[number, ranking] = np.arange(1, len(ranking) + 1)
    assert ranks.tolist() == expected[query, row].tolist()


@settings(max_examples=120, deadline=None)
@given(problems(), st.integers(1, 100), st.integers(1, 500), st.integers(1, 4))
def test_top_k_equals_a_full_stable_sort(problem: tuple, k: int, block_rows: int, query_rows: int) -> None:
    queries, matrix, excluded, size = problem
    scores, rows = top_k(
        queries, in_blocks(matrix, size), k, excluded, block_rows=block_rows, query_rows=query_rows
    )
    width = min(k, len(matrix))
    assert rows.shape == scores.shape == (len(queries), width)
    for number, ranking in enumerate(full_ranking(queries, matrix, excluded)):
        best = ranking[:width]
        assert rows[number].tolist() == best + [-1] * (width - len(best))
        np.testing.assert_array_equal(
            scores[number, : len(best)], matrix[best].astype(np.float32) @ queries[number]
        )


@settings(max_examples=50, deadline=None)
@given(problems(), st.floats(0.001, 10), st.integers(1, 70), st.integers(1, 4))
def test_log_partition_equals_scipy(
    problem: tuple, temperature: float, block_rows: int, query_rows: int
) -> None:
    queries, matrix, excluded, size = problem
    found = log_partition(
        queries, in_blocks(matrix, size), temperature, excluded, block_rows=block_rows, query_rows=query_rows
    )
    scores = queries.astype(np.float64) @ matrix.astype(np.float64).T
    scores[np.arange(len(queries))[excluded >= 0], excluded[excluded >= 0]] = -np.inf
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, logsumexp(scores / temperature, axis=1), rtol=1e-6, atol=1e-6)


def test_log_partition_less_a_score_is_the_loss_of_finding_it(unit_vectors: np.ndarray) -> None:
    queries, temperature = unit_vectors[:20].astype(np.float32), 0.05
    logits = torch.from_numpy(queries @ unit_vectors.astype(np.float32).T) / temperature
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(20), reduction="none")
    whole = log_partition(queries, in_blocks(unit_vectors, 1000), temperature, block_rows=500, query_rows=7)
    np.testing.assert_allclose(whole - logits.diagonal().numpy(), expected, atol=1e-5)


def test_copies_of_one_vector_tie_wherever_they_stand(unit_vectors: np.ndarray) -> None:
    matrix = unit_vectors.copy()
    copies = np.array([3, 700, 1023, 1024, 2500, len(matrix) - 1])
    matrix[copies] = matrix[3]
    queries = matrix[[3, 50]].astype(np.float32) + np.float32(0.01)
    _, rows = top_k(queries, in_blocks(matrix, 999), len(copies), block_rows=1000)
    assert rows[0].tolist() == copies.tolist()
    ranks = ranks_of_positives(queries, in_blocks(matrix, 999), (np.zeros(len(copies), int), copies))
    assert ranks.tolist() == [1, 2, 3, 4, 5, 6]


def test_real_valued_ranks_and_top_k_agree_with_each_other(unit_vectors: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(40, unit_vectors.shape[1])).astype(np.float32)
    _, rows = top_k(queries, in_blocks(unit_vectors, 1000), 30)
    query = np.repeat(np.arange(40), 30)
    ranks = ranks_of_positives(queries, in_blocks(unit_vectors, 1000), (query, rows.ravel()))
    assert ranks.reshape(40, 30).tolist() == [list(range(1, 31))] * 40


@pytest.mark.parametrize("kind", ["random", "rising", "falling", "equal", "clustered"])
def test_top_k_gives_the_same_bits_whatever_the_size_of_blocks(kind: str) -> None:
    rng = np.random.default_rng(4)
    matrix, queries = rng.normal(size=(4000, 24)).astype(np.float32), rng.normal(size=(33, 24))
    if kind in ("rising", "falling"):
        matrix = matrix[np.argsort(matrix @ queries[0])[:: 1 if kind == "rising" else -1]].copy()
    elif kind == "equal":
        matrix[:] = matrix[0]
    elif kind == "clustered":
        matrix = np.repeat(matrix[:50], 80, axis=0) + np.float32(1e-3) * matrix
    expected = top_k(queries, in_blocks(matrix, 4000), 20, block_rows=4000)
    order = np.argsort(-(matrix.astype(np.float64) @ queries.T).T, axis=1, kind="stable")[:, :20]
    if kind != "equal":
        assert expected[1].tolist() == order.tolist()
    else:
        assert expected[1].tolist() == [list(range(20))] * 33
    for size, block_rows, query_rows in ((4000, 1344, 1024), (999, 4096, 16), (64, 64, 5), (7, 4096, 1024)):
        found = top_k(queries, in_blocks(matrix, size), 20, block_rows=block_rows, query_rows=query_rows)
        for one, two in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_the_queries_and_change_nothing(threads: int) -> None:
    queries = np.random.default_rng(1).integers(-2, 3, (400, 3)).astype(np.float32)
    matrix = np.random.default_rng(2).integers(-2, 3, (900, 3)).astype(np.float32)
    rankings = full_ranking(queries, matrix, np.full(400, -1))
    query = np.repeat(np.arange(400), 4)
    row = np.array([ranking[place] for ranking in rankings for place in (0, 7, 300, 899)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _, rows = top_k(queries, in_blocks(matrix, 500), 9)
        ranks = ranks_of_positives(queries, in_blocks(matrix, 500), (query, row))
    finally:
        torch.set_num_threads(before)
    assert rows.tolist() == [ranking[:9] for ranking in rankings]
    assert ranks.reshape(400, 4).tolist() == [[1, 8, 301, 900]] * 400


def test_the_search_works_where_no_machine_code_can_be_kept() -> None:
    program = (
        "from numba.core import caching; caching.CacheImpl._locator_classes = []\n"
        "import numpy as np; from moonrec.nearest import top_k\n"
        "print(top_k(np.eye(3), lambda: [np.eye(3)], 1)[1].ravel().tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[0, 1, 2]", done.stderr


def test_a_wrong_guess_of_the_positives_scores_costs_a_pass_and_changes_no_rank(
    unit_vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = np.random.default_rng(1).normal(size=(40, unit_vectors.shape[1]))
    pairs = (np.arange(40), np.arange(40) * 70)
    expected = ranks_of_positives(queries, in_blocks(unit_vectors, 1000), pairs, pairs[1] % 3 * 70)
    exact = ScoreTiles.pair_scores
    monkeypatch.setattr(ScoreTiles, "pair_scores", lambda *given: exact(*given) * 0.999)
    found = ranks_of_positives(queries, in_blocks(unit_vectors, 1000), pairs, pairs[1] % 3 * 70)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_catalogue_that_is_not_finite_is_refused(unit_vectors: np.ndarray, number: float) -> None:
    broken = unit_vectors.astype(np.float32)
    broken[1500, 3] = number
    pair = (np.array([0]), np.array([0]))
    for search in (
        lambda: top_k(unit_vectors[:5], in_blocks(broken, 500), 3),
        lambda: ranks_of_positives(unit_vectors[:5], in_blocks(broken, 500), pair),
        lambda: log_partition(unit_vectors[:5], in_blocks(broken, 500), 1.0),
    ):
        with pytest.raises(ValueError, match="block from row 1500 on is not finite"):
            search()


def test_an_embedding_set_is_searched_by_entry(tmp_path: Path, unit_vectors: np.ndarray) -> None:
    ids = [f"item{number}" for number in range(len(unit_vectors))]
    with EmbeddingSetWriter(tmp_path / "set", unit_vectors.shape[1], {}) as writer:
        writer.write(ids, unit_vectors)
    embeddings = EmbeddingSet.open(tmp_path / "set")
    wanted = embeddings.rows(["item17", "item2000"])
    queries = embeddings.vectors(wanted)
    _, rows = top_k(queries, embeddings, 1)
    assert (rows[:, 0] + 1).tolist() == wanted.tolist()
    assert ranks_of_positives(queries, embeddings, (np.arange(2), wanted - 1)).tolist() == [1, 1]


def test_no_queries_and_no_positives_are_fine(unit_vectors: np.ndarray) -> None:
    blocks = in_blocks(unit_vectors, 1000)
    none = np.empty(0, dtype=np.int64)
    empty = np.empty((0, unit_vectors.shape[1]), np.float32)
    assert ranks_of_positives(empty, blocks, (none, none)).shape == (0,)
    assert ranks_of_positives(unit_vectors[:3], blocks, (none, none)).shape == (0,)
    assert len(top_k(empty, blocks, 5)[1]) == 0


def test_what_does_not_fit_is_refused(unit_vectors: np.ndarray) -> None:
    blocks = in_blocks(unit_vectors, 1000)
    one = np.array([0])
    with pytest.raises(ValueError, match="1 of 1 positives are rows that the catalogue does not have"):
        ranks_of_positives(unit_vectors[:1], blocks, (one, np.array([len(unit_vectors)])))
    with pytest.raises(ValueError, match="query is outside"):
        ranks_of_positives(unit_vectors[:1], blocks, (np.array([1]), one))
    with pytest.raises(ValueError, match="width"):
        top_k(unit_vectors[:1, :2], blocks, 1)
    with pytest.raises(ValueError, match="finite"):
        top_k(np.full((1, unit_vectors.shape[1]), np.nan), blocks, 1)
    with pytest.raises(ValueError, match="excluded"):
        top_k(unit_vectors[:2], blocks, 1, one)
    with pytest.raises(ValueError, match="k is 0"):
        top_k(unit_vectors[:1], blocks, 0)
    with pytest.raises(ValueError, match="temperature is 0, expected"):
        log_partition(unit_vectors[:1], blocks, 0)


@pytest.fixture(scope="module")
def unit_vectors() -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(3001, 24))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
