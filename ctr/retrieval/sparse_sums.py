"""Compiled: sums of sparse rows, of which only the best entries are kept.

Item-kNN needs this twice. What items stand beside a given one is the sum of the lists of the users who took
it; what a request is offered is the sum of the neighbours of its history. Neither result is ever written out
in full: one row of sums at a time is, per thread.

Shapes: R rows to make, N items, E entries of sparse rows, K kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moonrec.compiled import compiled

# Items are numbered from 0 in 32 bits.
_LAST = 0xFFFF_FFFF


@compiled
def best_cosines(
    row_R: NDArray[np.int64],
    best_RK: NDArray[np.int64],
    score_RK: NDArray[np.float32],
    user_lists: tuple[Any, Any],
    item_lists: tuple[Any, Any],
    user_weight_U: NDArray[np.float64],
    norm_N: NDArray[np.float64],
    shrink: float,
) -> None:
    """The best neighbours of the items `row_R`, and their shrunken cosines, best first.

    Entries of `best_RK` that stay -1 are free. `user_lists` and `item_lists` are (values, offsets): the users
    of every item, and the items of every user, each once.
    """
    user_E, user_offset_N1 = user_lists
    item_E, item_offset_U1 = item_lists
    sum_N, met_N = np.zeros(len(norm_N)), np.empty(len(norm_N), np.int64)
    score_N = np.empty(len(norm_N), np.float32)
    for r in range(len(row_R)):
        own, met = row_R[r], 0
        for at in range(user_offset_N1[own], user_offset_N1[own + 1]):
            user = user_E[at]
            weight = user_weight_U[user]
            for entry in range(item_offset_U1[user], item_offset_U1[user + 1]):
                item = item_E[entry]
                if sum_N[item] == 0.0:
                    met_N[met] = item
                    met += 1
                sum_N[item] += weight
        sum_N[own] = 0.0
        for place in range(met):
            item = met_N[place]
            score_N[place] = sum_N[item] / (norm_N[own] * norm_N[item] + shrink)
            sum_N[item] = 0.0
        _keep_best(met_N[:met], score_N[:met], best_RK[r], score_RK[r])


@compiled
def best_sums(
    row_R: NDArray[np.int64],
    best_RK: NDArray[np.int64],
    score_RK: NDArray[np.float32],
    history: tuple[Any, Any],
    masked: tuple[Any, Any],
    neighbours: tuple[Any, Any, Any],
    items: int,
) -> None:
    """The best items of the requests `row_R` by the sum of their history's neighbours, best first.

    `history` and `masked` are (values, offsets), a history's items each once; `neighbours` are (items,
    weights, offsets). Entries of `best_RK` that stay -1 are free.
    """
    history_E, history_offset_Q1 = history
    masked_E, masked_offset_Q1 = masked
    near_E, weight_E, near_offset_N1 = neighbours
    sum_N, met_N = np.zeros(items), np.empty(items, np.int64)
    score_N = np.empty(items, np.float32)
    for r in range(len(row_R)):
        request, met = row_R[r], 0
        for at in range(history_offset_Q1[request], history_offset_Q1[request + 1]):
            behaviour = history_E[at]
            for entry in range(near_offset_N1[behaviour], near_offset_N1[behaviour + 1]):
                item = near_E[entry]
                if sum_N[item] == 0.0:
                    met_N[met] = item
                    met += 1
                sum_N[item] += weight_E[entry]
        for at in range(masked_offset_Q1[request], masked_offset_Q1[request + 1]):
            sum_N[masked_E[at]] = 0.0
        for place in range(met):
            score_N[place] = sum_N[met_N[place]]
            sum_N[met_N[place]] = 0.0
        _keep_best(met_N[:met], score_N[:met], best_RK[r], score_RK[r])


@compiled
def _keep_best(item_M: Any, score_M: Any, best_K: Any, score_K: Any) -> None:
    """Put the items of the highest scores above 0 into `best_K`, equal ones by position, with their scores.

    Bits of positive floats are in the order of the floats: one integer per entry holds its whole place in the
    order, so that the best can be split off before the few of them are sorted.
    """
    key_M = (score_M.view(np.int32).astype(np.int64) << 32) | (_LAST - item_M)
    size = min(len(best_K), int(np.count_nonzero(score_M)))
    if size == 0:
        return
    first = len(key_M) - size
    key_K = np.sort(np.partition(key_M, first)[first:])[::-1]
    best_K[:size] = _LAST - (key_K & _LAST)
    score_K.view(np.int32)[:size] = key_K >> 32
