"""Search through an index of faiss: over-fetch, score exactly, drop what is excluded, widen if short.

Legend: Q users, D width, C candidates of a user, K results, N items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.data.ragged import Ragged
from ctr.retrieval.index.exact_scores import exact_scores
from ctr.retrieval.index.faiss_kinds import search_parameters
from ctr.retrieval.index.index_file import Effort
from ctr.retrieval.index.item_index import ExactIndex, ItemIndex
from moonrec.embedding_set import EmbeddingSet
from moonrec.excluded_rows import excluded_pairs

# Users whose candidates are in memory at once. Ours.
_USERS_AT_ONCE = 4096
# Who got too few is asked for again with so many times the candidates, and the next time exactly. Ours.
_WIDER = 4

_Found = tuple[NDArray[np.float32], NDArray[np.int64]]


class FaissIndex(ItemIndex):
    """HNSW or IVF-PQ over the items of an embedding set.

    Args:
        faiss: the library.
        kind: `hnsw` or `ivfpq`.
        index: the index of faiss, whose entries are those of `vectors`.
        vectors: the items' vectors.
        effort: how hard to search.
    """

    def __init__(self, faiss: Any, kind: str, index: Any, vectors: EmbeddingSet, effort: Effort) -> None:
        super().__init__(vectors)
        self.kind, self.effort = kind, effort
        self._faiss, self._index = faiss, index

    def search(self, user_QD: NDArray[Any], k: int, excluded: Ragged | None = None) -> _Found:
        """See `ItemIndex.search`; more than `effort.k` results, and the search is deeper in proportion."""
        user_QD = np.ascontiguousarray(user_QD, dtype=np.float32)
        if user_QD.ndim != 2 or user_QD.shape[1] != self.vectors.dimension or not np.isfinite(user_QD).all():
            raise ValueError(f"users of shape {user_QD.shape}, expected finite (Q, {self.vectors.dimension})")
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1")
        if excluded is not None and len(excluded) != len(user_QD):
            raise ValueError(f"excluded items of {len(excluded)} users for {len(user_QD)} users")
        k = min(k, len(self.vectors))
        score_QK = np.empty((len(user_QD), k), dtype=np.float32)
        item_QK = np.empty((len(user_QD), k), dtype=np.int64)
        for first in range(0, len(user_QD), _USERS_AT_ONCE):
            some = np.arange(first, min(first + _USERS_AT_ONCE, len(user_QD)))
            without = None if excluded is None else excluded.take(some)
            score_QK[some], item_QK[some] = self._search_some(user_QD[some], k, without)
        return score_QK, item_QK

    def _search_some(self, user_QD: NDArray[np.float32], k: int, excluded: Ragged | None) -> _Found:
        length_Q = np.zeros(len(user_QD), np.int64) if excluded is None else np.diff(excluded.offsets_R1)
        # Most of what users had is not among their best, so a longest list is not fetched for everybody.
        extra = min(int(length_Q.max(initial=0)), k)
        score_QK, item_QK = self._fetch(user_QD, k, k + extra, 1, excluded)
        for wider in (_WIDER, 0):
            (short,) = np.nonzero((item_QK >= 0).sum(axis=1) < np.minimum(k, len(self.vectors) - length_Q))
            if len(short):
                without = None if excluded is None else excluded.take(short)
                found = (
                    self._fetch(user_QD[short], k, wider * (k + extra), wider, without)
                    if wider
                    else ExactIndex(self.vectors).search(user_QD[short], k, without)
                )
                score_QK[short], item_QK[short] = found
        return score_QK, item_QK

    def _fetch(
        self, user_QD: NDArray[np.float32], k: int, fetched: int, wider: int, excluded: Ragged | None
    ) -> _Found:
        """The `k` best of the `fetched` candidates that faiss finds and that are not excluded."""
        count = min(self.effort.factor * fetched, len(self.vectors))
        score_QC, item_QC = self._candidates(user_QD, count, self._depth(fetched, wider))
        if excluded is not None:
            query_E, row_E = excluded_pairs((excluded.values, excluded.offsets_R1), len(user_QD))
            keys_QC = np.arange(len(user_QD))[:, None] * len(self.vectors) + item_QC
            dropped_QC = np.isin(keys_QC, query_E * len(self.vectors) + row_E) & (item_QC >= 0)
            score_QC[dropped_QC] = -np.inf
        return _best(score_QC, item_QC, k)

    def _depth(self, fetched: int, wider: int) -> int:
        depth = wider * -(-self.effort.depth * max(fetched, self.effort.k) // self.effort.k)
        if self.kind == "hnsw":
            return min(max(depth, fetched), max(len(self.vectors), 1))
        return min(depth, self._index.nlist)

    def _candidates(self, user_QD: NDArray[np.float32], count: int, depth: int) -> _Found:
        parameters = search_parameters(self._faiss, self.kind, depth)
        score_QC, item_QC = self._index.search(user_QD, count, params=parameters)
        if self.kind == "ivfpq":
            score_QC = exact_scores(user_QD, self.vectors, item_QC)
        else:
            score_QC[item_QC < 0] = -np.inf
        return score_QC, item_QC


def _best(score_QC: NDArray[np.float32], item_QC: NDArray[np.int64], k: int) -> _Found:
    """The `k` best candidates, the lower entry first among equals; -inf and -1 where there are fewer."""
    if score_QC.shape[1] > k:
        chosen_QK = np.argpartition(score_QC, -k, axis=1)[:, -k:]
        score_QC = np.take_along_axis(score_QC, chosen_QK, axis=1)
        item_QC = np.take_along_axis(item_QC, chosen_QK, axis=1)
    order_QK = np.lexsort((item_QC, -score_QC), axis=1)
    score_QC = np.take_along_axis(score_QC, order_QK, axis=1)
    item_QC = np.take_along_axis(item_QC, order_QK, axis=1)
    score_QK = np.full((len(score_QC), k), -np.inf, dtype=np.float32)
    item_QK = np.full((len(score_QC), k), -1, dtype=np.int64)
    score_QK[:, : score_QC.shape[1]] = score_QC
    item_QK[:, : item_QC.shape[1]] = np.where(score_QC > -np.inf, item_QC, -1)
    return score_QK, item_QK
