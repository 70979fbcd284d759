"""What an index answers, and the exact one, which is no file: the vectors themselves.

Legend: Q users, D width, K results, N items of the catalogue.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.data.ragged import Ragged
from moonrec.embedding_set import EmbeddingSet
from moonrec.nearest import top_k


class ItemIndex(ABC):
    """A searchable catalogue.

    Attributes:
        kind: how it searches, one of `KINDS`.
        vectors: the items' vectors; results are 0-based entries of this set.
    """

    kind: str

    def __init__(self, vectors: EmbeddingSet) -> None:
        self.vectors = vectors

    @abstractmethod
    def search(
        self, user_QD: NDArray[Any], k: int, excluded: Ragged | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best items of every user: scores (Q, K) and 0-based entries (Q, K), best first.

        K is `k`, or the size of the catalogue if that is smaller; -inf and -1 where no more are left. Every
        item that is returned has its exact score.

        Args:
            user_QD: user vectors.
            k: how many.
            excluded: entries that each user is not to get, sorted and unique per user; None for none.

        Raises:
            ValueError: shapes that do not fit, vectors that are not finite, or `k` below 1.
        """


class ExactIndex(ItemIndex):
    """All products of users and items: nothing is missed."""

    kind = "exact"

    def search(
        self, user_QD: NDArray[Any], k: int, excluded: Ragged | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `ItemIndex.search`."""
        pairs = None if excluded is None else (excluded.values, excluded.offsets_R1)
        return top_k(user_QD, self.vectors, k, pairs)
