"""The baseline that knows who took what together: item-based nearest neighbours on co-occurrence.

Tuned neighbourhood models beat most of the neural recommenders that they were held against (Ferrari Dacrema,
Cremonesi and Jannach, "Are we really making much progress?", RecSys 2019, https://arxiv.org/abs/1907.06902).
Taken from there: cosine similarity, a shrink term in its denominator, a neighbourhood of a fixed size, and
weights that count a user for less who took much (their TF-IDF option). The parameters are fixed.

Shapes: E training events, U users, N items of the catalogue, Q requests, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctr.data.ragged import Ragged
from ctr.retrieval.sparse_sums import best_cosines, best_sums
from moonrec.score_scan import in_threads, new_threads

NEIGHBOURS = 200
MOST_ITEMS_OF_A_USER = 500
# Pairs that few users made have a high cosine by chance; this lowers it. On the last tenth of the training
# events of a log of film ratings, recall@100 was .222, .235, .232, .221, .194 for 0, 3, 10, 30, 100, and .226
# for 10 with all users counting alike; on simulated purchases it hardly mattered. Ours.
SHRINK = 10.0
# Rows of neighbours or candidates that are made at once. Ours.
_ROWS = 16_384


@dataclass(frozen=True)
class ItemKnn:
    """The neighbours of every item, best first, of equal ones the more frequent first, end to end.

    Attributes:
        item_E: int32, catalogue positions of neighbours.
        weight_E: float32, their shrunken cosines, in (0, 1].
        offset_N1: (N + 1) where each item's begin.
    """

    item_E: NDArray[np.int32]
    weight_E: NDArray[np.float32]
    offset_N1: NDArray[np.int64]

    @classmethod
    def fit(cls, user_E: NDArray[np.integer[Any]], item_E: NDArray[np.integer[Any]], items: int) -> Self:
        """Learn from training events: the 200 nearest items of each one.

        A user's last 500 different items count, each once, with a weight w_u that is proportional to
        log(1 + U / n_u) for n_u items and 1 on average over the events. The similarity of i and j is Σ w_u
        over the users of both, divided by sqrt(Σ w_u of i · Σ w_u of j) + 10.

        Work grows with the sum of the squares of the users' numbers of items. For 10 M events of 500,000
        users on 1 M items (0.95 G pairs of a user's items) it takes about 50 seconds of one core, over as
        many threads as torch uses, and 2.8 GB at its peak; what is kept is at most 1.6 kB per item.

        Args:
            user_E: (E) user codes from 0 on; each user's events stand oldest first.
            item_E: (E) catalogue positions; -1 is no item of the catalogue and is left out.
            items: N.
        """
        user_P, item_P = _last_items(user_E[item_E >= 0], item_E[item_E >= 0], items)
        users = int(user_P.max()) + 1 if len(user_P) else 0
        count_U = np.bincount(user_P, minlength=users)
        weight_U = np.log1p(np.count_nonzero(count_U) / np.maximum(count_U, 1))
        weight_U /= weight_U[user_P].mean() if len(user_P) else 1.0
        # In the order of their frequency, the sums that most additions go to stand together in the cache.
        order_N = np.argsort(-np.bincount(item_P, minlength=items), kind="stable")
        place_N = np.empty(items, np.int64)
        place_N[order_N] = np.arange(items)
        place_P = place_N[item_P]
        norm_N = np.sqrt(np.bincount(place_P, weights=weight_U[user_P], minlength=items))
        by_place_P = np.argsort(place_P, kind="stable")
        users_of_item = Ragged.of_lengths(user_P[by_place_P], np.bincount(place_P, minlength=items))
        items_of_user = Ragged.of_lengths(place_P, count_U)

        neighbours, weights, lengths = [], [], []
        for _, near_RK, score_RK in _blocks(
            place_N, NEIGHBOURS, best_cosines,
            _lists(users_of_item), _lists(items_of_user), weight_U, norm_N, SHRINK,
        ):  # fmt: skip
            kept_RK = near_RK >= 0
            neighbours.append(order_N[near_RK[kept_RK]].astype(np.int32))
            weights.append(score_RK[kept_RK])
            lengths.append(kept_RK.sum(axis=1))
        return cls(
            np.concatenate([np.empty(0, np.int32), *neighbours]),
            np.concatenate([np.empty(0, np.float32), *weights]),
            np.concatenate([[0], *lengths]).cumsum(dtype=np.int64),
        )

    def candidates(self, history: Ragged, masked: Ragged, k: int) -> NDArray[np.int64]:
        """The `k` items of each request with the greatest sum of similarities to its history's items.

        Args:
            history: per request the catalogue positions of its history; an item counts once.
            masked: per request the items to leave out.
            k: candidates wanted; K is `k`, or N if that is smaller.

        Returns:
            int64 (Q, K), best first, equal sums by position; -1 where no item is a neighbour any more.
        """
        items = len(self.offset_N1) - 1
        item_QK = np.full((len(history), min(k, items)), -1, np.int64)
        for rows, best_RK, _ in _blocks(
            np.arange(len(history)), item_QK.shape[1], best_sums,
            _lists(_distinct(history, items)), _lists(masked),
            (self.item_E, self.weight_E, self.offset_N1), items,
        ):  # fmt: skip
            item_QK[rows] = best_RK
        return item_QK


def _blocks(
    row_R: NDArray[np.int64], k: int, loop: Callable[..., None], *rest: Any
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.float32]]]:
    """Run a compiled loop over blocks of rows, in as many threads as torch uses."""
    with new_threads() as threads:
        for first in range(0, len(row_R), _ROWS):
            row_r = row_R[first : first + _ROWS]
            best_rK = np.full((len(row_r), k), -1, np.int64)
            score_rK = np.zeros((len(row_r), k), np.float32)
            in_threads(threads, loop, (row_r, best_rK, score_rK), *rest)
            yield slice(first, first + len(row_r)), best_rK, score_rK


def _last_items(
    user_E: NDArray[np.integer[Any]], item_E: NDArray[np.integer[Any]], items: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users and items of the pairs that count, sorted by user; the last event of a pair is its time."""
    pair_E = user_E.astype(np.int64) * items + item_E
    # The first one of the reversed array is the last event of a pair.
    pair_P, from_end_P = np.unique(pair_E[::-1], return_index=True)
    user_P = pair_P // max(items, 1)
    recent_first_P = np.lexsort((from_end_P, user_P))
    pair_P, user_P = pair_P[recent_first_P], user_P[recent_first_P]
    begins_P = np.searchsorted(user_P, user_P)
    kept_P = np.arange(len(user_P)) - begins_P < MOST_ITEMS_OF_A_USER
    return user_P[kept_P], pair_P[kept_P] - user_P[kept_P] * items


def _distinct(rows: Ragged, items: int) -> Ragged:
    """Every row's values once, sorted."""
    row_E = np.repeat(np.arange(len(rows)), np.diff(rows.offsets_R1))
    pair_P = np.unique(row_E * items + rows.values)
    row_P = pair_P // max(items, 1)
    return Ragged.of_lengths(pair_P - row_P * items, np.bincount(row_P, minlength=len(rows)))


def _lists(rows: Ragged) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Values and offsets, of the types that the loops are compiled for."""
    return rows.values.astype(np.int64, copy=False), rows.offsets_R1.astype(np.int64, copy=False)
