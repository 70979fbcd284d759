"""The catalogue as relevance sees it: vectors of every view, products, titles, and categories level by level.

Shapes: N items, E width of the vectors, L category levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from encoders.evaluation.catalogue import EncodedItems, ShownItems, encode_items
from encoders.evaluation.entrants import Entrant
from encoders.hard_negatives import text_codes
from encoders.pairs import product_codes
from encoders.products import EVERYTHING, IMAGE_ONLY, TEXT_ONLY
from moonrec.domains import category_levels
from moonrec.errors import UserError
from moonrec.ids import codes_of
from moonrec.tables import Table

# Ours: deeper levels hold few items each, and what they tell the cosine tells as well.
_MOST_LEVELS = 4


@dataclass(frozen=True)
class ShownVectors:
    """Vectors (N, E) float16 of one view, and which items (N,) show anything in it (the others are zero)."""

    vectors_NE: np.ndarray
    has_N: np.ndarray


@dataclass(frozen=True)
class ItemVectors:
    """A catalogue of N items, in the order of its table.

    Attributes:
        ids: their ids.
        whole, picture, words: vectors of all that an item shows, of its picture, of its words.
        product_N: a number that the SKUs of one product share.
        text_N: a number that items of one title share; -1 without a title.
        categories: per item `A > B > C` or null.
        levels: the category levels that are compared, from 1.
        level_NL: a number per category down to each of these levels; -1 for none.
    """

    ids: pa.Array
    whole: ShownVectors
    picture: ShownVectors
    words: ShownVectors
    product_N: np.ndarray
    text_N: np.ndarray
    categories: pa.ChunkedArray
    levels: tuple[int, ...]
    level_NL: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def item_vectors(items: Table, entrant: Entrant, levels: Sequence[int] | None = None) -> ItemVectors:
    """Encode a catalogue in three views.

    Args:
        items: the catalogue.
        entrant: the encoder; its embedding set, where it has one, stands for the view of everything.
        levels: category levels to number; None: those at which the categories differ, four at most.

    Raises:
        UserError: no item has anything to show, or a vector is not finite.
    """
    worker = entrant.worker
    assert worker is not None
    views = [IMAGE_ONLY, TEXT_ONLY, *([EVERYTHING] if entrant.embeddings is None else [])]
    encoded = encode_items(items, worker, views)
    picture, words = (_dense(encoded, encoded.shown[view], worker.dim) for view in (IMAGE_ONLY, TEXT_ONLY))
    if entrant.embeddings is None:
        whole = _dense(encoded, encoded.shown[EVERYTHING], worker.dim)
    else:
        row_N = entrant.embeddings.rows(encoded.ids)
        whole = ShownVectors(entrant.embeddings.vectors(row_N), row_N > 0)
    if not whole.has_N.any():
        raise UserError(f"{items.path}: no item has a picture or words; nothing can be relevant to a query")
    missing = pa.chunked_array([pa.nulls(len(encoded.ids), pa.string())])
    has_categories = "category" in items.column_names
    categories = items.read(["category"]).column("category") if has_categories else missing
    numbers, level_NL = category_numbers(categories, levels)
    product_N = product_codes(items, encoded.ids.to_pylist())
    return ItemVectors(
        encoded.ids, whole, picture, words, product_N, text_codes(items), categories, numbers, level_NL
    )


def category_numbers(
    categories: pa.ChunkedArray, levels: Sequence[int] | None
) -> tuple[tuple[int, ...], np.ndarray]:
    """The levels, and a number (N, L) per item and level of its category down to there; -1 for none.

    Args:
        categories: per item `A > B > C` or null.
        levels: from 1; None: the first four at which the categories differ.
    """
    codes, distinct = codes_of(categories)
    paths = [*(category_levels(text.as_py()) for text in distinct), ()]  # a null's code, -1, is the last
    depth = max(map(len, paths))
    asked = range(1, depth + 1) if levels is None else levels
    names = [{path[:level] for path in paths if len(path) >= level} for level in asked]
    chosen = [
        (level, sorted(found)) for level, found in zip(asked, names, strict=True)
        if levels is not None or len(found) > 1
    ]  # fmt: skip
    chosen = chosen[:_MOST_LEVELS]
    numbers = [{name: number for number, name in enumerate(found)} for _, found in chosen]
    of_path = [
        [found.get(path[:level], -1) for (level, _), found in zip(chosen, numbers, strict=True)]
        for path in paths
    ]
    level_NL = np.array(of_path, np.int64).reshape(len(paths), len(chosen))[codes]
    return tuple(level for level, _ in chosen), level_NL


def _dense(encoded: EncodedItems, shown: ShownItems, dim: int) -> ShownVectors:
    vectors_NE, has_N = np.zeros((len(encoded.ids), dim), np.float16), np.zeros(len(encoded.ids), bool)
    for rows, block in zip(shown.rows, shown.blocks, strict=True):
        vectors_NE[rows] = block
        has_N[rows] = True
    return ShownVectors(vectors_NE, has_N)
