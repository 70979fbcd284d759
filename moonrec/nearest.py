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

from moonrec.embedding_set import EmbeddingSet
from moonrec.excluded_rows import Excluded, excluded_pairs, part_of
from moonrec.score_tiles import BLOCK_ROWS, QUERY_ROWS, Blocks, ScoreTiles, pairs_of

# Tiles of `top_k`, whose scores stay in one core's cache: 97 GFLOPS a core, of 80 with 2,048 x 2,048. Ours.
TOP_QUERY_ROWS, TOP_BLOCK_ROWS = 256, 1024
_LIST_BYTES = 256 << 20


def ranks_of_positives(
    queries_QD: NDArray[Any],
    blocks: Blocks,
    positives: tuple[NDArray[np.int64], NDArray[np.int64]],
    excluded: Excluded | None = None,
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
        excluded: rows that are left out of rankings: one 0-based row per query (Q), -1 for none; or
            `(row_E, offset_Q1)`, where query q leaves out `row_E[offset_Q1[q]:offset_Q1[q + 1]]`.
        block_rows, query_rows: size of a tile, which decides speed and memory.

    Returns:
        The ranks; 0 for a positive that its query leaves out, for the caller to drop.

    Raises:
        ValueError: shapes that do not fit, vectors that are not finite, a query or row that does not exist.
    """
    query_P, row_P = (np.asarray(part, dtype=np.int64) for part in positives)
    if query_P.shape != row_P.shape or query_P.ndim != 1:
        raise ValueError(f"positives of shapes {query_P.shape} and {row_P.shape}, expected (P) and (P)")
    if query_P.size and (query_P.min() < 0 or query_P.max() >= len(queries_QD)):
        raise ValueError(f"a positive's query is outside [0, {len(queries_QD)})")
    tiles = ScoreTiles(queries_QD, blocks, excluded, block_rows, query_rows)
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
    excluded: Excluded | None = None,
    *,
    block_rows: int = TOP_BLOCK_ROWS,
    query_rows: int = TOP_QUERY_ROWS,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` best rows of every query: scores float32 (Q, K) and 0-based rows int64 (Q, K), best first.

    K is `k`, or the size of the catalogue if that is smaller (0 without queries). A query whose excluded
    rows leave it too few ends in places with score -inf and row -1. Beyond the result it takes about 256 MB,
    or what one tile of queries per thread needs (24 bytes a query times `k`): the catalogue is read once for
    as many queries as fit. While it runs, torch uses one thread elsewhere in the process. The other arguments
    are those of `ranks_of_positives`.

    Raises:
        ValueError: shapes that do not fit, vectors that are not finite, or `k` below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    from moonrec.best_rows import BestRows, bytes_per_query
    from moonrec.score_scan import one_thread_each

    count, rows = len(queries_QD), 0
    excluded_pairs(excluded, count)
    if isinstance(blocks, EmbeddingSet):
        k = max(1, min(k, len(blocks)))
    best_QK = np.empty((count, k), dtype=np.float32)
    row_QK = np.empty((count, k), dtype=np.int64)
    workers = torch.get_num_threads()
    query_rows = min(query_rows, max(1, -(-count // workers)))
    together = max(query_rows * workers, _LIST_BYTES // bytes_per_query(k) // query_rows * query_rows)
    with one_thread_each() as threads:
        for first in range(0, count, together):
            part = slice(first, min(first + together, count))
            tiles = ScoreTiles(queries_QD[part], blocks, part_of(excluded, part), block_rows, query_rows)
            found = BestRows(part.stop - part.start, k)
            rows = tiles.visit(threads, found.keep)
            found.write(threads, best_QK[part], row_QK[part])
    return np.ascontiguousarray(best_QK[:, :rows]), np.ascontiguousarray(row_QK[:, :rows])


def log_partition(
    queries_QD: NDArray[Any],
    blocks: Blocks,
    temperature: float,
    excluded: Excluded | None = None,
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
    for tile in ScoreTiles(scaled_QD, blocks, excluded, block_rows, query_rows):
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
