"""Lists of candidates for streams of users: from the model where it knows anything of them, else popularity.

Legend: Q requests of a block, K places of a list, N items of the index, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctr.data.impressions import Impressions
from ctr.data.ragged import Ragged
from ctr.retrieval.index import ItemIndex
from ctr.retrieval.new_places import place_count, with_new_items
from ctr.retrieval.popularity import popularity_candidates
from ctr.retrieval.saving import SavedRetrieval
from ctr.retrieval.user_requests import UserRequests
from ctr.retrieval.vectors import user_vectors
from moonrec.ids import rows_of

SOURCES = ("model", "history", "popularity")
_MODEL, _HISTORY, _POPULARITY = range(len(SOURCES))
# Places of all lists that are in memory at once: 12 bytes each, and their ids. Ours.
_PLACES, _MOST_ROWS = 1 << 22, 1 << 14


@dataclass(frozen=True)
class CandidateLists:
    """What was found for some requests.

    Attributes:
        item_QK: 0-based entries of the index, best first, -1 where a list has ended.
        score_QK: the cosine of user and item; in lists of popularity how often the item was taken in
            training; -inf where a list has ended.
        source_Q: where each list comes from, a position in `SOURCES`: the user has a trained row (0), he has
            none but his history tells of him (1), the model knows nothing of him (2).
    """

    item_QK: NDArray[np.int64]
    score_QK: NDArray[np.float32]
    source_Q: NDArray[np.int64]


class CandidateFinder:
    """Finds candidates for the requests of a table.

    Args:
        saved: the model.
        index: what can be found.
        requests: the users, over the same model and index.
        k: candidates wanted; K is `k`, or N if that is smaller.
        mask: leave out what a user had before.
        new_share: the least share of a list's places that are to be of items that were never taken in
            training; lists of popularity hold no such items.
    """

    def __init__(
        self,
        saved: SavedRetrieval,
        index: ItemIndex,
        requests: UserRequests,
        *,
        k: int,
        mask: bool,
        new_share: float = 0.0,
    ) -> None:
        self.k = min(k, len(index.vectors))
        self.rows_at_once = max(1, min(_PLACES // self.k, _MOST_ROWS))
        self._index, self._requests, self._mask = index, requests, mask
        self._model = saved.model(requests.frozen)
        ids, count = saved.popular
        position = rows_of(ids, index.vectors.ids)
        self._count_N = np.zeros(len(index.vectors), np.int64)
        self._count_N[position[position >= 0]] = count[position >= 0]
        self._new_places = place_count(new_share, self.k)

    def blocks(self) -> Iterator[tuple[pa.Table, CandidateLists]]:
        """All requests in order, as they were read, and their lists."""
        for rows, impressions in self._requests.blocks(self.rows_at_once):
            yield rows, self._lists(impressions)

    def _lists(self, rows: Impressions) -> CandidateLists:
        told_Q = self._requests.told_by_history(rows)
        source_Q = np.where(rows.user_R > 0, _MODEL, np.where(told_Q, _HISTORY, _POPULARITY))
        masked = self._requests.masked(rows, self._mask)
        item_QK = np.empty((len(rows), self.k), np.int64)
        score_QK = np.empty((len(rows), self.k), np.float32)
        for asked_Q, find in (
            (source_Q != _POPULARITY, self._by_model),
            (source_Q == _POPULARITY, self._by_popularity),
        ):
            (some,) = np.nonzero(asked_Q)
            if len(some):
                score_QK[some], item_QK[some] = find(rows.at(some), masked.take(some))
        return CandidateLists(item_QK, score_QK, source_Q)

    def _by_model(self, rows: Impressions, masked: Ragged) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        user_QD = user_vectors(self._model, rows, self._requests.items)
        found = self._index.search(user_QD, self.k, masked)
        if not self._new_places:
            return found
        is_new_N = self._count_N == 0
        return with_new_items(*found, user_QD, self._index.vectors, is_new_N, masked, self._new_places)

    def _by_popularity(self, _: Impressions, masked: Ragged) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        item_QK = popularity_candidates(self._count_N, masked, self.k)
        score_QK = np.where(item_QK >= 0, self._count_N[item_QK], -np.inf).astype(np.float32)
        return score_QK, item_QK
