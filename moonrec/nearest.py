"""Exact nearest neighbours by dot product, block by block, for catalogues of any size.

Three questions are answered: at which rank does a given row come (`ranks_of_positives`), which rows come
first (`top_k`), and what do all scores sum to in a softmax (`log_partition`). Equal scores are ordered by
row, the lower one first, so the same input always gives the same ranking.

Shapes: Q queries, D embedding width, P (query, positive) pairs, K results; a tile has q queries and m rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moonrec.score_tiles import BLOCK_ROWS, QUERY_ROWS, Blocks, ScoreTiles, pairs_of


def ranks_of_positives(
    queries_QD: NDArray[Any],
    blocks: Blocks,
    positives: tuple[NDArray[np.int64], NDArray[np.int64]],
    excluded_rows_Q: NDArray[np.int64] | None = None,
    *,
    block_rows: int = BLOCK_ROWS,
    query_rows: int = QUERY_ROWS,
) -> NDArray[np.int64]:
    """The 1-based rank of every positive in its query's full ranking of the catalogue, int64 (P).

    The rank is 1 + the number of rows with a higher score, or with the same score and a lower row number. The
    catalogue is read twice: for the scores of the positives alone, then for all scores, to count. If the two
    differ in a single bit, the count is repeated with the latter, so that rounding cannot change a rank.

    Args:
        queries_QD: (Q, D) query vectors.
        blocks: an embedding set, or a function that starts a new pass over the catalogue's (M, D) blocks.
        positives: (P) 0-based queries and (P) 0-based catalogue rows (`EmbeddingSet.rows` - 1).
        excluded_rows_Q: (Q) one 0-based row per query that is left out of its ranking; -1 for none.
        block_rows, query_rows: size of a tile, which decides speed and memory.

    Returns:
        The ranks; 0 for a positive that is its query's own excluded row, for the caller to drop.

    Raises:
        ValueError: shapes that do not fit, vectors that are not finite, a query or row that does not exist.
    """
    query_P, row_P = (np.asarray(part, dtype=np.int64) for part in positives)
    if query_P.shape != row_P.shape or query_P.ndim != 1:
        raise ValueError(f"positives of shapes {query_P.shape} and {row_P.shape}, expected (P) and (P)")
    if query_P.size and (query_P.min() < 0 or query_P.max() >= len(queries_QD)):
        raise ValueError(f"a positive's query is outside [0, {len(queries_QD)})")
    tiles = ScoreTiles(queries_QD, blocks, excluded_rows_Q, block_rows, query_rows)
    order = np.argsort(query_P, kind="stable")
    query_P, row_P = query_P[order], row_P[order]

    own_P = tiles.pair_scores(query_P, row_P)
    if missing := int(np.isnan(own_P).sum()):
        raise ValueError(f"{missing} of {len(row_P)} positives are rows that the catalogue does not have")
    better_P, found_P = _counts_of_better(tiles, query_P, row_P, own_P)
    if not np.array_equal(own_P, found_P):
        better_P, _ = _counts_of_better(tiles, query_P, row_P, found_P)

    ranks_P = np.empty(len(query_P), dtype=np.int64)
    ranks_P[order] = np.where(own_P == -np.inf, 0, better_P + 1)
    return ranks_P


def top_k(
    queries_QD: NDArray[Any],
    blocks: Blocks,
    k: int,
    excluded_rows_Q: NDArray[np.int64] | None = None,
    *,
    block_rows: int = BLOCK_ROWS,
    query_rows: int = QUERY_ROWS,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` best rows of every query: scores float32 (Q, K) and 0-based rows int64 (Q, K), best first.

    K is `k`, or the size of the catalogue if that is smaller (0 without queries). A query whose excluded
    row leaves it too few ends in a place with score -inf and row -1. Made for a `k` of up to some hundreds:
    more takes memory for `k` results per query, and time. The other arguments are those of
    `ranks_of_positives`.

    Raises:
        ValueError: shapes that do not fit, vectors that are not finite, or `k` below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    from moonrec.score_scan import in_threads, keep_best, new_threads

    rows = 0
    best_QK = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
    row_QK = np.full((len(queries_QD), k), -1, dtype=np.int64)
    with new_threads() as threads:
        for tile in ScoreTiles(queries_QD, blocks, excluded_rows_Q, block_rows, query_rows):
            parts = (tile.scores_qm.numpy(), best_QK[tile.queries], row_QK[tile.queries])
            in_threads(threads, keep_best, parts, tile.first_row)
            rows = tile.end_row
    return best_QK[:, ::-1][:, :rows].copy(), row_QK[:, ::-1][:, :rows].copy()


def log_partition(
    queries_QD: NDArray[Any],
    blocks: Blocks,
    temperature: float,
    excluded_rows_Q: NDArray[np.int64] | None = None,
    *,
    block_rows: int = BLOCK_ROWS,
    query_rows: int = QUERY_ROWS,
) -> NDArray[np.float64]:
    """log Σ over the catalogue's rows of exp(score / temperature) for every query, float64 (Q).

    It is what a score divided by the temperature is compared with in a contrastive loss (InfoNCE) whose
    negatives are the whole catalogue. A tile is summed in float32, the tiles in float64; the greatest score
    of a tile is taken out before the exponential, so that no temperature overflows. -inf where no row is
    left. The other arguments are those of `ranks_of_positives`.

    Raises:
        ValueError: shapes that do not fit, vectors that are not finite, or a temperature that is not a
            positive number.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}, expected a positive number")
    scaled_QD = np.asarray(queries_QD) / temperature
    total_Q = torch.full((len(queries_QD),), -torch.inf, dtype=torch.float64)
    for tile in ScoreTiles(scaled_QD, blocks, excluded_rows_Q, block_rows, query_rows):
        greatest_q = tile.scores_qm.amax(dim=1).nan_to_num(neginf=0.0)
        sum_q = tile.scores_qm.sub_(greatest_q[:, None]).exp_().sum(dim=1).double()
        total_Q[tile.queries] = torch.logaddexp(total_Q[tile.queries], sum_q.log() + greatest_q)
    return np.asarray(total_Q.numpy())


def _counts_of_better(
    tiles: ScoreTiles, query_P: NDArray[np.int64], row_P: NDArray[np.int64], own_P: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """How many rows come before each positive if its score is `own_P`, and the score that it has."""
    from moonrec.score_scan import count_better, in_threads, new_threads

    better_P, found_P = np.zeros_like(query_P), np.full_like(own_P, np.nan)
    with new_threads() as threads:
        for tile in tiles:
            pairs = pairs_of(tile.queries, query_P)
            parts = tuple(of_P[pairs] for of_P in (query_P, row_P, own_P, better_P, found_P))
            in_threads(threads, count_better, parts, tile.scores_qm.numpy(), tile.first_query, tile.first_row)
    return better_P, found_P
