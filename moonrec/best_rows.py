"""The best rows of each query out of tiles of scores, in one compiled pass.

A query keeps a list with room for more than its best. A score is appended if it is above the query's bar.
When the list is full, a bar is found that at least k scores of the list reach; those that do not are dropped.
A later row that only equals the bar has k before it, since tiles come in the order of their rows. So a score
that gets in costs little, whatever k is, and one that does not is told from its bar 64 at a time.

Shapes: q queries and m rows of a tile, C room of a query's list, K best of a query.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from moonrec.compiled import compiled
from moonrec.score_keys import best_first_keys, scores_of, ties_of

# Scores compared with the bar at once: the bits of one number. Rows of a tile are a multiple of it.
GROUP_ROWS = 64
# A list has room for twice its k, or for k and so many. Less room, more often a new bar. Ours, not tuned.
_LEAST_ROOM = 128
# Places of lists that a thread sorts before it asks for more work: they stay in its cache. Ours.
_SORTED_AT_ONCE = 1 << 16


def bytes_per_query(k: int) -> int:
    """Bytes of the list of a query."""
    return _room(k) * (np.dtype(np.float32).itemsize + np.dtype(np.int64).itemsize)


class BestRows:
    """The lists of `queries` queries, each for the `k` best rows.

    Tiles may come from several threads at once as long as each query's come one after another, in the order
    of their rows.
    """

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._score_QC = np.empty((queries, _room(k)), dtype=np.float32)
        self._row_QC = np.empty((queries, _room(k)), dtype=np.int64)
        self._count_Q = np.zeros(queries, dtype=np.int64)
        self._bar_Q = np.full(queries, -np.inf, dtype=np.float32)

    def keep(self, scores_qm: NDArray[np.float32], first_query: int, first_row: int) -> None:
        """Take up the rows of a tile; those that score -inf are never taken."""
        queries = slice(first_query, first_query + len(scores_qm))
        lists = (self._score_QC[queries], self._row_QC[queries], self._count_Q[queries], self._bar_Q[queries])
        _keep(scores_qm, first_row, self._k, *lists)

    def write(self, threads: Executor, score_QK: NDArray[np.float32], row_QK: NDArray[np.int64]) -> None:
        """Write the best, best first, the lower row first among equals; -inf and -1 behind the last."""
        jobs, size = [], max(1, _SORTED_AT_ONCE // _room(self._k))
        for first in range(0, len(score_QK), size):
            queries = slice(first, first + size)
            lists = (self._score_QC[queries], self._row_QC[queries], self._count_Q[queries])
            jobs.append(threads.submit(_write, self._k, *lists, score_QK[queries], row_QK[queries]))
        for job in jobs:
            job.result()


def _room(k: int) -> int:
    return k + max(k, _LEAST_ROOM) + GROUP_ROWS


def _write(
    k: int,
    score_qC: NDArray[np.float32],
    row_qC: NDArray[np.int64],
    count_q: NDArray[np.int64],
    score_qK: NDArray[np.float32],
    row_qK: NDArray[np.int64],
) -> None:
    place_C = np.arange(score_qC.shape[1])
    filled_qC = np.where(place_C < count_q[:, None], score_qC, np.float32(-np.inf))
    # Lists are in the order of rows, so the lower place is the lower row.
    key_qC = best_first_keys(filled_qC, place_C)
    key_qC.sort(axis=1)
    key_qK = key_qC[:, :k]
    score_qK[:] = scores_of(key_qK)
    row_qK[:] = np.take_along_axis(row_qC, ties_of(key_qK), axis=1)
    row_qK[score_qK == -np.inf] = -1


def _type_bits_above(_typing: Any, score_N: Any, start: Any, bar: Any) -> Any:
    """Bit i tells whether `score_N[start + i]` is above `bar`, for i from 0 to 63."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        vector = ir.VectorType(ir.FloatType(), GROUP_ROWS)
        first = builder.gep(array.data, [arguments[1]])
        scores = builder.load(builder.bitcast(first, vector.as_pointer()), align=4)
        lane = builder.insert_element(ir.Constant(vector, ir.Undefined), arguments[2], ir.IntType(32)(0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), GROUP_ROWS), [0] * GROUP_ROWS)
        bars = builder.shuffle_vector(lane, lane, everywhere)
        return builder.bitcast(builder.fcmp_ordered(">", scores, bars), ir.IntType(GROUP_ROWS))

    return types.uint64(score_N, types.int64, types.float32), generate


def _type_lowest_bit(_typing: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set; there must be one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), generate


_bits_above: Callable[..., Any] = intrinsic(_type_bits_above)
_lowest_bit: Callable[..., Any] = intrinsic(_type_lowest_bit)


@compiled
def _keep(
    scores_qm: NDArray[np.float32],
    first_row: int,
    k: int,
    score_qC: NDArray[np.float32],
    row_qC: NDArray[np.int64],
    count_q: NDArray[np.int64],
    bar_q: NDArray[np.float32],
) -> None:
    full = score_qC.shape[1] - GROUP_ROWS
    for q in range(len(scores_qm)):
        scores_m, score_C, row_C = scores_qm[q], score_qC[q], row_qC[q]
        bar, count = bar_q[q], np.uint64(count_q[q])
        for start in range(0, scores_qm.shape[1], GROUP_ROWS):
            bits = _bits_above(scores_m, np.int64(start), bar)
            while bits:
                place = start + np.int64(_lowest_bit(bits))
                score_C[count] = scores_m[place]
                row_C[count] = first_row + place
                count += np.uint64(1)
                bits &= bits - np.uint64(1)
            if count > full:
                kept, bar = _raise_bar(score_C, row_C, np.int64(count), k)
                count = np.uint64(kept)
        bar_q[q], count_q[q] = bar, count


@compiled
def _raise_bar(score_C: Any, row_C: Any, count: Any, k: Any) -> Any:
    """Drop scores that are surely not among the k best, of a list of more than k; returns length and bar."""
    bar, above, ties = _bar(score_C[:count], k)
    kept = np.uint64(0)
    for i in range(np.uint64(count)):
        score = score_C[i]
        score_C[kept] = score
        row_C[kept] = row_C[i]
        tie = bar <= score and score < above
        kept += np.uint64((score >= above) | (tie and ties > 0))
        ties -= np.int64(tie)
    return kept, bar


@compiled
def _bar(score_N: Any, k: Any) -> Any:
    """A bar that at least k scores reach, the least number above it, and how many equal to it stay.

    Bisection. It ends early when few more than k reach the bar: then all of them stay.
    """
    most = k + (len(score_N) - k) // 8
    low, high = score_N.min(), score_N.max()
    if _count_reaching(score_N, high) >= k:
        return high, np.float32(np.inf), k
    reached = len(score_N)
    while reached > most:
        middle = low * np.float32(0.5) + high * np.float32(0.5)
        if middle <= low or middle >= high:
            return low, high, k - _count_reaching(score_N, high)
        count = _count_reaching(score_N, middle)
        if count >= k:
            low, reached = middle, count
        else:
            high = middle
    return low, low, np.int64(0)


@compiled
def _count_reaching(score_N: Any, bar: Any) -> Any:
    # An index that cannot be negative and a counter as wide as the scores: several are compared at a time.
    count = np.int32(0)
    for i in range(np.uint64(len(score_N))):
        count = np.int32(count + np.int32(score_N[i] >= bar))
    return np.int64(count)
