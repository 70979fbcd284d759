"""How well an item's picture agrees with its words, beyond what any picture and any words have in common.

Shapes: I items that have both, n of them in a part, E width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encoders.evaluation.catalogue import EncodedItems
from encoders.products import IMAGE_ONLY, TEXT_ONLY


@dataclass(frozen=True)
class Agreement:
    """Cosines of the items that have both a picture and words.

    Attributes:
        row_I: rows of the items, ascending.
        own_I: cosine of the item's picture and its own words.
        others_I: mean cosine of its picture and the words of all other items.
    """

    row_I: np.ndarray
    own_I: np.ndarray
    others_I: np.ndarray

    def lead_I(self) -> np.ndarray:
        """How much nearer its own words are than those of others."""
        return self.own_I - self.others_I


def agreement_of(items: EncodedItems) -> Agreement | None:
    """The agreement of every item with a picture and words; None where fewer than two items have words."""
    pictures, words = items.shown[IMAGE_ONLY], items.shown[TEXT_ONLY]
    row_I = np.intersect1d(pictures.row_M(), words.row_M(), assume_unique=True)
    others = len(words.row_M()) - 1
    if not len(row_I) or others < 1:
        return None
    # The mean of dot products is the dot product with the mean: no item is compared with every other.
    sum_E = np.sum([block.sum(axis=0, dtype=np.float64) for block in words.blocks], axis=0)
    own, all_words = [], []
    for picture_nE, words_nE in zip(pictures.only(row_I), words.only(row_I), strict=True):
        own.append(np.einsum("ne,ne->n", picture_nE.astype(np.float64), words_nE.astype(np.float64)))
        all_words.append(picture_nE.astype(np.float64) @ sum_E)
    own_I = np.concatenate(own)
    return Agreement(row_I, own_I, (np.concatenate(all_words) - own_I) / others)
