"""Search through an index of faiss: over-fetch, score exactly, drop what is excluded, widen if short.

Legend: Q users, D width, C candidates of a user, K results, N items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.data.ragged import Ragged
from ctr.retrieval.index.exact_scores import exact_scores
from ctr.retrieval.index.excluded_items import drop
from ctr.retrieval.index.faiss_kinds import search_parameters
from ctr.retrieval.index.index_file import Effort
from ctr.retrieval.index.item_index import ExactIndex, ItemIndex
from moonrec.embedding_set import EmbeddingSet
from moonrec.score_keys import best_first_keys, scores_of, ties_of

# Candidates that are in memory at once, 28 bytes each; `_WIDER` times as many at worst. Ours.
_CANDIDATES_AT_ONCE = 1 << 22
# Who got too few is asked for again with so many times the candidates, and the next time exactly. Ours.
_WIDER = 4
# Fewer classes of users, and so fewer calls of faiss. Ours.
_FEWEST_EXTRA = 16

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
        if excluded is None:
            excluded = Ragged.of_lengths(np.zeros(0, np.int64), np.zeros(len(user_QD), np.int64))
        extra_Q = _extra_candidates(np.diff(excluded.offsets_R1), k)
        for extra in np.unique(extra_Q).tolist():
            (alike,) = np.nonzero(extra_Q == extra)
            size = max(1, _CANDIDATES_AT_ONCE // self._count(k + extra))
            for first in range(0, len(alike), size):
                some = alike[first : first + size]
                found = self._search_some(user_QD[some], k, k + extra, excluded.take(some))
                score_QK[some], item_QK[some] = found
        return score_QK, item_QK

    def _search_some(self, user_QD: NDArray[np.float32], k: int, fetched: int, excluded: Ragged) -> _Found:
        length_Q = np.diff(excluded.offsets_R1)
        score_QK, item_QK = self._fetch(user_QD, k, fetched, 1, excluded)
        for wider in (_WIDER, 0):
            (short,) = np.nonzero((item_QK >= 0).sum(axis=1) < np.minimum(k, len(self.vectors) - length_Q))
            if len(short):
                without = excluded.take(short)
                found = (
                    self._fetch(user_QD[short], k, wider * fetched, wider, without)
                    if wider
                    else ExactIndex(self.vectors).search(user_QD[short], k, without)
                )
                score_QK[short], item_QK[short] = found
        return score_QK, item_QK

    def _fetch(
        self, user_QD: NDArray[np.float32], k: int, fetched: int, wider: int, excluded: Ragged
    ) -> _Found:
        """The `k` best of the `fetched` candidates that faiss finds and that are not excluded."""
        parameters = search_parameters(self._faiss, self.kind, self._depth(fetched, wider))
        score_QC, item_QC = self._index.search(user_QD, self._count(fetched), params=parameters)
        drop(item_QC, excluded.values, excluded.offsets_R1)
        if self.kind == "ivfpq":
            score_QC = exact_scores(user_QD, self.vectors, item_QC)
        else:
            score_QC[item_QC < 0] = -np.inf
        return _best(score_QC, item_QC, k)

    def _count(self, fetched: int) -> int:
        return min(self.effort.factor * fetched, len(self.vectors))

    def _depth(self, fetched: int, wider: int) -> int:
        depth = wider * -(-self.effort.depth * max(fetched, self.effort.k) // self.effort.k)
        if self.kind == "hnsw":
            return min(max(depth, fetched), max(len(self.vectors), 1))
        return min(depth, self._index.nlist)


def _extra_candidates(length_Q: NDArray[np.integer[Any]], k: int) -> NDArray[np.int64]:
    """How many more than `k` are fetched for a user who has so many excluded: a power of two, at most `k`.

    Most of what users had is not among their best, so more would be for nothing. It is a user's own number
    that decides: else what one gets would depend on who else asks.
    """
    power_Q = np.ceil(np.log2(np.maximum(length_Q, _FEWEST_EXTRA)))
    return np.where(length_Q > 0, np.minimum(2**power_Q, k), 0).astype(np.int64)


def _best(score_QC: NDArray[np.float32], item_QC: NDArray[np.int64], k: int) -> _Found:
    """The `k` best candidates, the lower entry first among equals; -inf and -1 where there are fewer."""
    key_QC = best_first_keys(score_QC, np.maximum(item_QC, 0))
    if key_QC.shape[1] > k:
        key_QC.partition(k - 1, axis=1)
    key_QC = np.sort(key_QC[:, :k], axis=1)
    score_QK = np.full((len(score_QC), k), -np.inf, dtype=np.float32)
    item_QK = np.full((len(score_QC), k), -1, dtype=np.int64)
    found_QC = scores_of(key_QC)
    score_QK[:, : found_QC.shape[1]] = found_QC
    item_QK[:, : found_QC.shape[1]] = np.where(found_QC > -np.inf, ties_of(key_QC), -1)
    return score_QK, item_QK
