"""Exact nearest neighbours by dot product, block by block, for catalogues of any size.

Three questions are answered: at which rank does a given row come (`ranks_of_positives`), which rows come
first (`top_k`), and what do all scores sum to in a softmax (`log_partition`). Equal scores are ordered by
row, the lower one first, so the same input always gives the same ranking.

Shapes: Q queries, D embedding width, P (query, positive) pairs, K results; a tile has q queries and m rows,
which fall into G groups; C candidates for a place among the best.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moonrec.score_tiles import BLOCK_ROWS, QUERY_ROWS, Blocks, ScoreTiles, Tile

_LOW_BITS = 0xFFFF_FFFF
# Divides a tile's columns. Larger groups are left out less often, smaller ones take longer to find. Ours.
_GROUP_ROWS = 32


def ranks_of_positives(
    queries_QD: NDArray[Any],
    blocks: Blocks,
    positives: tuple[NDArray[np.int64], NDArray[np.int64]],
    excluded_rows_Q: NDArray[np.int64] | None = None,
    *,
    block_rows: int = BLOCK_ROWS,
    query_rows: int = QUERY_ROWS,
    device: str | torch.device = "cpu",
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
        device: where the products are computed.

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
    tiles = ScoreTiles(queries_QD, blocks, excluded_rows_Q, block_rows, query_rows, device)
    order = np.argsort(query_P, kind="stable")
    query, row = (torch.from_numpy(part[order]).to(device) for part in (query_P, row_P))

    own_score = tiles.pair_scores(query, row)
    if missing := int(own_score.isnan().sum()):
        raise ValueError(f"{missing} of {len(row_P)} positives are rows that the catalogue does not have")
    better, found_score = _counts_of_better(tiles, query, row, own_score)
    if not torch.equal(own_score, found_score):
        better, _ = _counts_of_better(tiles, query, row, found_score)

    ranks_P = np.empty(len(query_P), dtype=np.int64)
    ranks_P[order] = torch.where(own_score == -torch.inf, 0, better + 1).cpu().numpy()
    return ranks_P


def top_k(
    queries_QD: NDArray[Any],
    blocks: Blocks,
    k: int,
    excluded_rows_Q: NDArray[np.int64] | None = None,
    *,
    block_rows: int = BLOCK_ROWS,
    query_rows: int = QUERY_ROWS,
    device: str | torch.device = "cpu",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` best rows of every query: scores float32 (Q, K) and 0-based rows int64 (Q, K), best first.

    K is `k`, or the size of the catalogue if that is smaller (0 without queries). A query whose excluded
    row leaves it too few ends in a place with score -inf and row -1. The other arguments are those of
    `ranks_of_positives`.

    Raises:
        ValueError: shapes that do not fit, vectors that are not finite, or `k` below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    best: dict[int, Tensor] = {}
    for tile in ScoreTiles(queries_QD, blocks, excluded_rows_Q, block_rows, query_rows, device):
        none_q0 = torch.empty((len(tile.scores_qm), 0), dtype=torch.int64, device=device)
        keys_qK = best.get(tile.first_query, none_q0)
        best[tile.first_query] = _merged(keys_qK, _candidate_keys(tile, keys_qK, k), min(k, tile.end_row))
    if not best:
        return np.empty((len(queries_QD), 0), np.float32), np.empty((len(queries_QD), 0), np.int64)
    keys_QK = torch.cat(list(best.values())).sort(dim=1, descending=True).values
    scores_QK = _scores_of(keys_QK)
    rows_QK = torch.where(scores_QK == -torch.inf, -1, _LOW_BITS - (keys_QK & _LOW_BITS))
    return scores_QK.cpu().numpy(), rows_QK.cpu().numpy()


def log_partition(
    queries_QD: NDArray[Any],
    blocks: Blocks,
    temperature: float,
    excluded_rows_Q: NDArray[np.int64] | None = None,
    *,
    block_rows: int = BLOCK_ROWS,
    query_rows: int = QUERY_ROWS,
    device: str | torch.device = "cpu",
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
    total_Q = torch.full((len(queries_QD),), -torch.inf, dtype=torch.float64, device=device)
    for tile in ScoreTiles(scaled_QD, blocks, excluded_rows_Q, block_rows, query_rows, device):
        greatest_q = tile.scores_qm.amax(dim=1).nan_to_num(neginf=0.0)
        sum_q = tile.scores_qm.sub_(greatest_q[:, None]).exp_().sum(dim=1).double()
        total_Q[tile.queries] = torch.logaddexp(total_Q[tile.queries], sum_q.log() + greatest_q)
    return np.asarray(total_Q.cpu().numpy())


def _counts_of_better(
    tiles: ScoreTiles, query_P: Tensor, row_P: Tensor, own_score_P: Tensor
) -> tuple[Tensor, Tensor]:
    """How many rows come before each positive if its score is `own_score_P`, and the score that it has."""
    better_P = torch.zeros_like(query_P)
    found_P = torch.full_like(own_score_P, torch.nan)
    bounds = tiles.pair_bounds(query_P)
    for tile in tiles:
        number = tile.first_query // tiles.query_rows
        for start in range(bounds[number], bounds[number + 1], tiles.query_rows):
            part = slice(start, min(start + tiles.query_rows, bounds[number + 1]))
            better_P[part] += _count_better(
                tile, query_P[part] - tile.first_query, row_P[part], own_score_P[part], found_P[part]
            )
    return better_P, found_P


def _count_better(tile: Tile, query_P: Tensor, row_P: Tensor, own_P: Tensor, found_P: Tensor) -> Tensor:
    """How many rows of the tile come before each positive; `found_P` gets the scores of those in the tile."""
    scores_Pm = tile.scores_qm
    if len(query_P) != len(scores_Pm) or not torch.equal(query_P, torch.arange(len(query_P)).to(query_P)):
        scores_Pm = scores_Pm[query_P]
    # Rows before the positive win ties: for them "s >= own" is asked, as "s > the next float below own".
    threshold_P = torch.where(row_P >= tile.end_row, _next_below(own_P), own_P)
    # Bytes are summed a hundred times as fast as booleans.
    better_P = (scores_Pm > threshold_P[:, None]).view(torch.uint8).sum(dim=1, dtype=torch.int32).long()
    (split,) = torch.nonzero((row_P >= tile.first_row) & (row_P < tile.end_row), as_tuple=True)
    if len(split):
        local_row = row_P[split, None] - tile.first_row
        found_P[split] = scores_Pm[split, local_row[:, 0]]
        column = torch.arange(scores_Pm.shape[1], device=row_P.device)
        ties = scores_Pm[split] == own_P[split, None]
        better_P[split] += (ties & (column < local_row)).sum(dim=1)
    return better_P


def _candidate_keys(tile: Tile, best_qK: Tensor, k: int) -> Tensor:
    """Keys (q, C) of all rows of the tile that may belong to the `k` best; the rest is filled up.

    Comparing every score would cost as much as the product. So the greatest score of each group of rows is
    compared: with the worst of the best so far, and with the k-th greatest group, which k rows reach.
    """
    query_count, group_count = len(tile.scores_qm), tile.scores_qm.shape[1] // _GROUP_ROWS
    if group_count < k:
        row_m = torch.arange(tile.first_row, tile.first_row + tile.scores_qm.shape[1]).to(best_qK.device)
        return _keys(tile.scores_qm, row_m)
    groups = tile.scores_qm.view(query_count, group_count, _GROUP_ROWS)
    greatest_qG = groups.amax(dim=2)
    # A later row of equal score does not displace the worst of the best.
    floor_q = tile.scores_qm.new_full((query_count,), -torch.inf)
    if best_qK.shape[1] == k:
        floor_q = _scores_of(best_qK.amin(dim=1))
    flat_group = _where(greatest_qG > floor_q[:, None])
    if len(flat_group) >= query_count * k:
        floor_q = floor_q.maximum(_next_below(greatest_qG.topk(k, dim=1).values[:, -1]))
        flat_group = _where(greatest_qG > floor_q[:, None])

    # One-dimensional indices throughout: gathering by pairs of them takes several times as long.
    scores = groups.flatten(0, 1).index_select(0, flat_group)
    floor = floor_q.index_select(0, flat_group // group_count)
    found_C = _where(scores > floor[:, None])
    column_C = flat_group.index_select(0, found_C // _GROUP_ROWS) * _GROUP_ROWS + found_C % _GROUP_ROWS
    query_C = column_C // tile.scores_qm.shape[1]
    row_C = column_C - query_C * tile.scores_qm.shape[1] + tile.first_row
    return _in_rows(_keys(scores.flatten().index_select(0, found_C), row_C), query_C, query_count)


def _where(mask: Tensor) -> Tensor:
    """Flat positions of what is true."""
    return mask.flatten().nonzero().squeeze(1)


def _in_rows(keys_C: Tensor, query_C: Tensor, query_count: int) -> Tensor:
    """One row per query of keys that are sorted by query, filled up with keys that are last."""
    count_q = query_C.bincount(minlength=query_count)
    place_C = torch.arange(len(keys_C), device=keys_C.device) - (count_q.cumsum(0) - count_q)[query_C]
    keys = keys_C.new_full((query_count, int(count_q.max())), _NO_KEY)
    keys[query_C, place_C] = keys_C
    return keys


def _merged(best_qK: Tensor, candidates_qC: Tensor, k: int) -> Tensor:
    """The `k` greatest of both, in no order."""
    if not candidates_qC.shape[1] and best_qK.shape[1] == k:
        return best_qK
    keys = torch.cat([best_qK, candidates_qC], dim=1)
    if (missing := k - keys.shape[1]) > 0:
        keys = torch.nn.functional.pad(keys, (0, missing), value=_NO_KEY)
    return keys.topk(k, dim=1, sorted=False).values


def _keys(scores: Tensor, rows: Tensor) -> Tensor:
    """One int64 per score that orders by score, then by lower row: 32 bits of the one, 32 of the other."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    return (_flipped(bits).to(torch.int64) << 32) | (_LOW_BITS - rows)


def _scores_of(keys: Tensor) -> Tensor:
    return _flipped((keys >> 32).to(torch.int32)).view(torch.float32)


def _flipped(bits: Tensor) -> Tensor:
    """Bits of floats as int32 that order like them (those below the sign flipped if negative), and back."""
    return bits ^ ((bits >> 31) & 0x7FFF_FFFF)


def _next_below(scores: Tensor) -> Tensor:
    return torch.nextafter(scores, scores.new_tensor(-torch.inf))


_NO_KEY = int(_keys(torch.tensor([-torch.inf]), torch.tensor([_LOW_BITS])))
