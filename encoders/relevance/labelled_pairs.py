"""Pairs of a query and an item with a label: what was taken, what was shown and left, what was sampled.

Negatives are of three kinds, and each is told apart wherever something is measured, since they decide what an
AUC means: `shown` beside the item that was taken (`negative_item_id`); `same_category`, drawn evenly from the
deepest category of the taken item that holds another product; `any`, drawn evenly from the catalogue. Items
near the query in the embedding are not drawn: chosen by the cosine, they would make the cosine look worse
than it is, and many of them would be relevant.

Never a negative of a query: SKUs of a product that the query took or whose picture it shows, and items whose
title is that of one.

Shapes: Q queries, P pairs, S slots for negatives, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encoders.hard_negatives import CategoryTree
from encoders.relevance.asked import Asked, positive_pairs
from encoders.relevance.item_vectors import ItemVectors

TAKEN, SHOWN, SAME_CATEGORY, ANY = range(4)
KINDS = ("taken", "shown", "same_category", "any")
# Ours: draws until a slot has a negative that is none of the query's positives.
_ROUNDS = 20


@dataclass(frozen=True)
class LabelledPairs:
    """Distinct pairs, sorted by query: query numbers, catalogue rows and numbers of `KINDS`, each (P,)."""

    query_P: np.ndarray
    item_P: np.ndarray
    kind_P: np.ndarray

    def __len__(self) -> int:
        return len(self.query_P)

    def __getitem__(self, rows: np.ndarray) -> LabelledPairs:
        return LabelledPairs(self.query_P[rows], self.item_P[rows], self.kind_P[rows])

    @property
    def label_P(self) -> np.ndarray:
        """Whether the item was taken."""
        return self.kind_P == TAKEN


def label_pairs(
    asked: Asked,
    items: ItemVectors,
    negatives: int,
    seed: int | Sequence[int],
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> LabelledPairs:
    """All positives, the shown negatives, and `negatives` sampled ones for every positive.

    Half of the slots (the larger half) ask for the same category, the others for any item. A slot whose item
    has no category with another product, or finds no allowed one there, takes any item; one that finds none
    at all stays empty, as does one that repeats another.

    Args:
        asked: the searches.
        items: the catalogue.
        negatives: sampled ones per positive.
        seed: of the draws.
        known: further (query, item) positives, which are never negatives.
    """
    query_P, item_P = positive_pairs(asked)
    allowed = _Allowed(asked, items, (query_P, item_P), known)
    shown_n = (asked.query_n >= 0) & (asked.shown_n >= 0)
    shown = asked.query_n[shown_n], asked.shown_n[shown_n]
    good = allowed(*shown)
    drawn = _drawn(query_P, item_P, items, negatives, np.random.default_rng(seed), allowed)
    found = [
        (query_P, item_P, np.full(len(query_P), TAKEN)),
        (shown[0][good], shown[1][good], np.full(int(good.sum()), SHOWN)),
        drawn,
    ]
    query, item, kind = (np.concatenate(column) for column in zip(*found, strict=True))
    # Of equal pairs the first kind stays: what was shown tells more than what was drawn.
    order = np.lexsort((kind, item, query))
    query, item, kind = query[order], item[order], kind[order]
    first = np.ones(len(query), bool)
    first[1:] = (np.diff(query) != 0) | (np.diff(item) != 0)
    return LabelledPairs(query[first], item[first], kind[first])


class _Allowed:
    """Tells which items may be negatives of which queries."""

    def __init__(
        self,
        asked: Asked,
        items: ItemVectors,
        positives: tuple[np.ndarray, np.ndarray],
        known: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        own = np.flatnonzero(asked.own_Q >= 0)
        parts = [positives, (own, asked.own_Q[own]), *([known] if known is not None else [])]
        query, item = (np.concatenate(column) for column in zip(*parts, strict=True))
        self._items = items
        self._products, self._texts = int(items.product_N.max()) + 1, int(items.text_N.max()) + 1
        self._taken_products = query * self._products + items.product_N[item]
        titled = items.text_N[item] >= 0
        self._taken_texts = (query * self._texts + items.text_N[item])[titled]

    def __call__(self, query_S: np.ndarray, item_S: np.ndarray) -> np.ndarray:
        product_S, text_S = self._items.product_N[item_S], self._items.text_N[item_S]
        taken_S = np.isin(query_S * self._products + product_S, self._taken_products)
        return ~(taken_S | ((text_S >= 0) & np.isin(query_S * self._texts + text_S, self._taken_texts)))


def _drawn(
    query_P: np.ndarray,
    item_P: np.ndarray,
    items: ItemVectors,
    negatives: int,
    rng: np.random.Generator,
    allowed: _Allowed,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sampled negatives: queries, items and kinds (S,)."""
    tree = CategoryTree(items.categories, items.product_N)
    query_S, item_S = np.repeat(query_P, negatives), np.repeat(item_P, negatives)
    node_S = tree.mixed_V[tree.leaf_N[item_S]]
    # The root is no category: who can draw from it alone draws any item.
    near_S = (np.tile(np.arange(negatives) % 2 == 0, len(query_P))) & (node_S > 0)
    found_S, kind_S = np.full(len(query_S), -1), np.where(near_S, SAME_CATEGORY, ANY)
    if tree.mixed_V[0] < 0:  # one product is all there is
        return query_S[:0], item_S[:0], kind_S[:0]
    for kind in (SAME_CATEGORY, ANY):
        for _ in range(_ROUNDS):
            (open_,) = np.nonzero((found_S < 0) & (kind_S == kind))
            if not len(open_):
                break
            node = node_S[open_] if kind == SAME_CATEGORY else np.zeros_like(open_)
            drawn = tree.draw(node, item_S[open_], rng)
            good = allowed(query_S[open_], drawn)
            found_S[open_[good]] = drawn[good]
        kind_S[(found_S < 0) & (kind_S == SAME_CATEGORY)] = ANY
    filled = found_S >= 0
    return query_S[filled], found_S[filled], kind_S[filled]
