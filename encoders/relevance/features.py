"""What a frozen encoder and the catalogue say of a (query, item) pair.

- `cosine`: r_q·r_t of all that the two show; `image_image`, `image_words`, `words_image`, `words_words`: of
  one modality of the query with one of the item.
- `share`: log of the item's part in a softmax over the whole catalogue, s/T - log Σ exp(s'/T). Cosines of
  queries that are near to everything are higher than those of others; this is comparable between queries.
- `category_L`: how much of the query's neighbourhood lies in the item's category down to level L. The
  neighbours are weighted as in that softmax; SKUs of the item's own product are left out, so that an item
  does not vouch for itself.

What is not there (words of a photo query, an item without category) is NaN, never a similarity of 0.

Shapes: Q queries, P pairs, p of them at once, F features, N items, M items that show anything, K neighbours,
L category levels, E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encoders.relevance.item_vectors import ItemVectors, ShownVectors
from encoders.relevance.query_vectors import QueryVectors
from moonrec.nearest import log_partition, top_k

COSINE, SHARE = "cosine", "share"
# The usual temperature of contrastive losses over unit vectors, as in the contrastive loss of `evaluate`.
TEMPERATURE = 0.05
NEIGHBOURS = 32
_AT_ONCE = 1 << 14
_SINGLE = {
    "image_image": ("picture", "picture"),
    "image_words": ("picture", "words"),
    "words_image": ("words", "picture"),
    "words_words": ("words", "words"),
}


def feature_names(levels: Sequence[int]) -> tuple[str, ...]:
    """The features, in their order, where categories are compared at these levels."""
    return (COSINE, *_SINGLE, SHARE, *(f"category_{level}" for level in levels))


@dataclass(frozen=True)
class Neighbours:
    """Per query the nearest items: cosines (Q, K), catalogue rows (Q, K; -1: no more), log partition (Q,)."""

    score_QK: np.ndarray
    row_QK: np.ndarray
    log_partition_Q: np.ndarray


class PairFeatures:
    """Features of pairs with the items of one catalogue.

    Attributes:
        names: `feature_names` of the catalogue.
    """

    def __init__(self, items: ItemVectors) -> None:
        self._items = items
        self._row_M = np.flatnonzero(items.whole.has_N)
        self._shown_ME = items.whole.vectors_NE[self._row_M]
        self._place_N = np.full(len(items), -1)
        self._place_N[self._row_M] = np.arange(len(self._row_M))
        self.names = feature_names(items.levels)

    def neighbours(self, queries: QueryVectors, own_Q: np.ndarray) -> Neighbours:
        """The neighbourhood of every query; `own_Q` (Q,) is the item whose picture it is (-1: none)."""
        own_Q = np.where(own_Q >= 0, self._place_N[own_Q], -1)
        score_QK, place_QK = top_k(queries.whole_QE, self._blocks, NEIGHBOURS, own_Q)
        row_QK = np.where(place_QK >= 0, self._row_M[place_QK], -1)
        total_Q = log_partition(queries.whole_QE, self._blocks, TEMPERATURE, own_Q)
        return Neighbours(score_QK, row_QK, total_Q)

    def __call__(
        self, queries: QueryVectors, near: Neighbours, query_P: np.ndarray, item_P: np.ndarray
    ) -> np.ndarray:
        """Features (P, F) float64 of pairs of a query's number and an item's row; NaN where there is none."""
        parts = [np.zeros((0, len(self.names)))]
        for first in range(0, len(query_P), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            parts.append(self._of(queries, near, query_P[part], item_P[part]))
        return np.concatenate(parts)

    def _of(
        self, queries: QueryVectors, near: Neighbours, query_p: np.ndarray, item_p: np.ndarray
    ) -> np.ndarray:
        there_p = queries.has_picture_Q[query_p] | queries.has_words_Q[query_p]
        cosine_p = _cosine(queries.whole_QE, self._items.whole, query_p, item_p, there_p)
        columns = [cosine_p]
        for side, item_side in _SINGLE.values():
            vectors_QE, has_Q = getattr(queries, f"{side}_QE"), getattr(queries, f"has_{side}_Q")
            shown = getattr(self._items, item_side)
            columns.append(_cosine(vectors_QE, shown, query_p, item_p, has_Q[query_p]))
        columns.append(cosine_p / TEMPERATURE - near.log_partition_Q[query_p])
        return np.column_stack([*columns, self._agreement(near, query_p, item_p)])

    def _agreement(self, near: Neighbours, query_p: np.ndarray, item_p: np.ndarray) -> np.ndarray:
        """Share (p, L) of each query's neighbourhood in the item's category."""
        items = self._items
        row_pK, score_pK = near.row_QK[query_p], near.score_QK[query_p].astype(np.float64)
        others_pK = (row_pK >= 0) & (items.product_N[row_pK] != items.product_N[item_p][:, None])
        logit_pK = np.where(others_pK, score_pK / TEMPERATURE, -np.inf)
        greatest_p = logit_pK.max(axis=1, initial=-np.inf)
        weight_pK = np.exp(logit_pK - np.where(np.isfinite(greatest_p), greatest_p, 0.0)[:, None])
        own_pL = items.level_NL[item_p]
        same_pKL = items.level_NL[row_pK] == own_pL[:, None, :]
        with np.errstate(invalid="ignore"):
            share_pL = np.einsum("pk,pkl->pl", weight_pK, same_pKL) / weight_pK.sum(axis=1)[:, None]
        return np.where(own_pL >= 0, share_pL, np.nan)

    def _blocks(self) -> list[np.ndarray]:
        return [self._shown_ME]


def _cosine(
    vectors_QE: np.ndarray, shown: ShownVectors, query_p: np.ndarray, item_p: np.ndarray, has_p: np.ndarray
) -> np.ndarray:
    item_pE = shown.vectors_NE[item_p].astype(np.float32)
    cosine_p = np.einsum("pe,pe->p", vectors_QE[query_p], item_pE).astype(np.float64)
    return np.where(has_p & shown.has_N[item_p], cosine_p, np.nan)
