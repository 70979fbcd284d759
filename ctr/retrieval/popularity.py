"""The baseline that knows nobody: the items that were taken most often in training.

Shapes: Q requests, B requests of a block, K candidates, N items of the catalogue, M masked items of a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.data.ragged import Ragged

# 16 MB of places per block for 500 candidates. Ours.
_REQUESTS = 4_096


def popularity_candidates(count_N: NDArray[np.integer[Any]], masked: Ragged, k: int) -> NDArray[np.int64]:
    """The `k` most frequent items of each request, without its masked ones, int64 (Q, K).

    Args:
        count_N: how often each item stands in training; an item that never does is never a candidate.
        masked: per request the items to leave out, each once.
        k: candidates wanted; K is `k`, or N if that is smaller.

    Returns:
        Catalogue positions, most frequent first, equal counts by position; -1 where a list has ended.
    """
    k = min(k, len(count_N))
    order = np.argsort(-count_N.astype(np.int64), kind="stable")
    taken = int(np.count_nonzero(count_N))
    place_N = np.empty(len(count_N), np.int64)
    place_N[order] = np.arange(len(count_N))
    # One more entry, for the places behind the last item that was ever taken.
    ranked = np.append(order[:taken], -1)
    item_QK = np.empty((len(masked), k), np.int64)
    for first in range(0, len(masked), _REQUESTS):
        rows_B = np.arange(first, min(first + _REQUESTS, len(masked)))
        place_BK = _free_places(place_N, masked.take(rows_B), k)
        item_QK[rows_B] = ranked[np.minimum(place_BK, taken)]
    return item_QK


def filled_with_popularity(
    item_QK: NDArray[np.int64], count_N: NDArray[np.integer[Any]], masked: Ragged
) -> NDArray[np.int64]:
    """Lists of candidates whose free ends hold the most frequent items that are not in them yet, (Q, K).

    A baseline that falls silent for want of a history should not lose for that alone.

    Args:
        item_QK: (Q, K) catalogue positions, best first, -1 where a list has ended.
        count_N, masked: as for `popularity_candidates`.
    """
    filled_QK = item_QK.copy()
    for first in range(0, len(masked), _REQUESTS):
        rows_B = np.arange(first, min(first + _REQUESTS, len(masked)))
        short_B = rows_B[(item_QK[rows_B] < 0).any(axis=1)]
        listed_BK = item_QK[short_B]
        length_B = (listed_BK >= 0).sum(axis=1)
        left_out = _distinct_union(masked.take(short_B), listed_BK, len(count_N))
        popular_BK = popularity_candidates(count_N, left_out, item_QK.shape[1])
        free_BK = np.arange(item_QK.shape[1]) >= length_B[:, None]
        # As many as a list lacks, from the front.
        listed_BK[free_BK] = popular_BK[free_BK[:, ::-1]]
        filled_QK[short_B] = listed_BK
    return filled_QK


def _distinct_union(masked: Ragged, listed_BK: NDArray[np.int64], items: int) -> Ragged:
    row_M = np.repeat(np.arange(len(masked)), np.diff(masked.offsets_R1))
    row_L, place_L = np.nonzero(listed_BK >= 0)
    keys = np.unique(
        np.concatenate([row_M * items + masked.values, row_L * items + listed_BK[row_L, place_L]])
    )
    row_U = keys // max(items, 1)
    return Ragged.of_lengths(keys - row_U * items, np.bincount(row_U, minlength=len(masked)))


def _free_places(place_N: NDArray[np.int64], masked: Ragged, k: int) -> NDArray[np.int64]:
    """The first `k` places (B, K) in the order of all items that no masked item of the request holds.

    Of masked places p_0 < p_1 < …, the free place number j comes behind those with p_i - i <= j: so many are
    stepped over.
    """
    offset_B1 = masked.offsets_R1
    row_M = np.repeat(np.arange(len(masked)), np.diff(offset_B1))
    key_M = np.sort(row_M * len(place_N) + place_N[masked.values])
    free_before_M = key_M - row_M * len(place_N) - (np.arange(len(row_M)) - offset_B1[row_M])
    met_M = free_before_M < k
    stepped_BK = np.bincount(row_M[met_M] * k + free_before_M[met_M], minlength=len(masked) * k)
    place_BK: NDArray[np.int64] = stepped_BK.reshape(len(masked), k).cumsum(axis=1) + np.arange(k)
    return place_BK
