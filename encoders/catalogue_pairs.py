"""Pairs that the catalogue itself gives: a product's picture and its own words."""

from __future__ import annotations

import numpy as np

from encoders.pairs import VALIDATION_SHARE, Pairs, PairSource
from encoders.training_data import Products

_MOST_HELD_OUT = 500


def catalogue_pairs(products: Products, seed: int) -> PairSource:
    """Each product with itself, where it has picture and words; a tenth is held out.

    SKUs of one product are held out together. The same seed holds out the same products in every stage.
    """
    items = len(products.item_ids)
    rows = np.flatnonzero((products.table.has_image() & products.table.has_text())[:items])
    codes = np.unique(products.product_M[rows])
    count = min(_MOST_HELD_OUT, round(VALIDATION_SHARE * len(codes)))
    held = np.random.default_rng((seed, 1)).permutation(codes)[:count]
    held_out = np.isin(products.product_M[rows], held)

    def pairs(chosen: np.ndarray) -> Pairs:
        nobody = np.full(len(chosen), -1)
        return Pairs(anchor=chosen, positive=chosen, user=nobody, own=nobody, shown_negative=nobody)

    training = rows[~held_out]
    return PairSource(
        "catalogue", pairs(training if len(training) > 1 else training[:0]), pairs(rows[held_out])
    )
