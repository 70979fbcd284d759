"""What requests should find, and the part of it that a question is about.

Legend: Q requests, q of them, P (request, positive) pairs, N items of the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Positives:
    """The items that requests should find.

    Attributes:
        query_P: the request of each pair.
        item_P: its catalogue position; -1 for an item that the catalogue lacks.
        count_Q: positives of each request, at least 1.
    """

    query_P: NDArray[np.int64]
    item_P: NDArray[np.int64]
    count_Q: NDArray[np.int64]

    def only(self, keep_P: NDArray[np.bool_]) -> tuple[Positives, NDArray[np.int64]]:
        """The pairs that are kept, of the requests that have one, and which requests these are (q)."""
        rows_q, query_p = np.unique(self.query_P[keep_P], return_inverse=True)
        part = Positives(query_p, self.item_P[keep_P], np.bincount(query_p, minlength=len(rows_q)))
        return part, rows_q

    def counts(self, count_N: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """How often the item of each pair stands in training (P); -1 outside the catalogue."""
        return np.where(self.item_P >= 0, np.append(count_N, 0)[self.item_P], -1)


def new_positives(
    positives: Positives, count_N: NDArray[np.integer[Any]]
) -> tuple[Positives, NDArray[np.int64]]:
    """The pairs whose item is in the catalogue and never in training, and the requests that have one.

    Args:
        positives: of all requests.
        count_N: how often each item of the catalogue stands in training.
    """
    return positives.only(positives.counts(count_N) == 0)
