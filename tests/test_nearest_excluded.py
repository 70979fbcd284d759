"""Any number of rows left out per query, and long lists of the best, against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moonrec.nearest import log_partition, ranks_of_positives, top_k


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple]:
    """Queries, catalogue of small whole numbers (many ties), and rows left out, from none to all."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    rows, queries = draw(st.integers(1, 700)), draw(st.integers(1, 9))
    matrix = rng.integers(-2, 3, (rows, 2)).astype(np.float16)
    share = rng.choice([0, 0.02, 0.5, 0.99, 1], queries)
    left_out = rng.random((queries, rows)) < share[:, None]
    return rng.integers(-2, 3, (queries, 2)).astype(np.float32), matrix, left_out, _ragged(left_out)


def _ragged(left_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero(left_out)[1], np.concatenate([[0], np.cumsum(left_out.sum(axis=1))])


def rankings(queries: np.ndarray, matrix: np.ndarray, left_out: np.ndarray) -> list[list[int]]:
    orders = np.argsort(-(queries @ matrix.astype(np.float32).T), axis=1, kind="stable")
    return [[int(row) for row in order if not out[row]] for order, out in zip(orders, left_out, strict=True)]


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(1, 900), st.integers(1, 200), st.integers(1, 4), st.integers(1, 300))
def test_the_best_of_what_is_left_equal_a_full_stable_sort(
    problem: tuple, k: int, block_rows: int, query_rows: int, size: int
) -> None:
    queries, matrix, left_out, excluded = problem
    scores, rows = top_k(
        queries,
        lambda: (matrix[start : start + size] for start in range(0, len(matrix), size)),
        k,
        excluded,
        block_rows=block_rows,
        query_rows=query_rows,
    )
    width = min(k, len(matrix))
    assert rows.shape == scores.shape == (len(queries), width)
    for number, ranking in enumerate(rankings(queries, matrix, left_out)):
        best = ranking[:width]
        assert rows[number].tolist() == best + [-1] * (width - len(best))
        assert scores[number, : len(best)].tolist() == (matrix[best] @ queries[number]).tolist()
        assert (scores[number, len(best) :] == -np.inf).all()


@settings(max_examples=40, deadline=None)
@given(problems())
def test_ranks_and_sums_leave_the_same_rows_out(problem: tuple) -> None:
    queries, matrix, left_out, excluded = problem
    query, row = (part.ravel() for part in np.indices(left_out.shape))
    ranks = ranks_of_positives(queries, lambda: [matrix], (query, row), excluded, query_rows=2)
    expected = np.zeros(left_out.shape, int)
    for number, ranking in enumerate(rankings(queries, matrix, left_out)):
        expected[number, ranking] = np.arange(1, len(ranking) + 1)
    assert ranks.tolist() == expected.ravel().tolist()
    scores = np.where(left_out, -np.inf, queries @ matrix.astype(np.float32).T)
    wanted = torch.logsumexp(torch.from_numpy(scores), dim=1)
    np.testing.assert_allclose(log_partition(queries, lambda: [matrix], 1.0, excluded), wanted, rtol=1e-5)


def test_rows_that_the_catalogue_does_not_have_change_nothing() -> None:
    queries = np.array([[4, 3, 2, 1], [4, 3, 2, 1]])
    excluded = (np.array([-1, 3, 99]), np.array([0, 0, 3]))
    catalogue = np.eye(4)
    pairs = np.array([0, 0, 1, 1]), np.array([0, 3, 0, 3])
    assert ranks_of_positives(queries, lambda: [catalogue], pairs, excluded).tolist() == [1, 4, 1, 0]
    assert top_k(queries, lambda: [catalogue], 4, excluded)[1].tolist() == [[0, 1, 2, 3], [0, 1, 2, -1]]


@pytest.mark.parametrize("order", ["random", "rising", "falling", "equal", "alternating"])
@pytest.mark.parametrize("k", [1, 100, 700])
def test_the_order_of_the_catalogue_changes_no_result(order: str, k: int) -> None:
    values = np.random.default_rng(3).permutation(20_000).astype(np.float32)
    values = {
        "random": values,
        "rising": np.sort(values),
        "falling": np.sort(values)[::-1],
        "equal": np.ones_like(values),
        "alternating": np.where(values % 2 == 0, values, 7),
    }[order]
    scores, rows = top_k(np.ones((3, 1)), lambda: [values[:, None]], k)
    best = np.argsort(-values, kind="stable")[:k]
    assert rows.tolist() == [best.tolist()] * 3
    assert scores.tolist() == [values[best].tolist()] * 3


def test_queries_beyond_the_memory_of_one_pass_read_the_catalogue_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    queries, matrix = rng.normal(size=(300, 8)).astype(np.float32), rng.normal(size=(900, 8))
    left_out = rng.random((300, 900)) < 0.1
    whole = top_k(queries, lambda: [matrix], 20, _ragged(left_out), query_rows=16)
    monkeypatch.setattr("moonrec.nearest._LIST_BYTES", 1)
    parts = top_k(queries, lambda: [matrix], 20, _ragged(left_out), query_rows=16)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])
    assert not left_out[np.arange(300)[:, None], whole[1]].any()


def test_the_number_of_threads_is_as_before_also_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="not finite"):
        top_k(np.ones((3, 1)), lambda: [np.full((5, 1), np.nan)], 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("offsets", [[0, 1], [0, 1, 3], [1, 2, 2], [0, 3, 2]])
def test_offsets_of_other_queries_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="one offset more than queries"):
        top_k(np.ones((2, 1)), lambda: [np.ones((5, 1))], 1, (np.array([0, 1]), np.array(offsets)))
