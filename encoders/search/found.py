"""What was found, with what the catalogue tells of it: rows of results, and products to show.

Shapes: K results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from encoders.evaluation.tiles import MOST_BYTES
from encoders.products import Product, iter_items
from moonrec.ids import rows_of
from moonrec.table_rows import FewRows, only_rows
from moonrec.tables import Table

_PICTURES = ("image", "images")
_TOLD = ("item_id", "title", "category")


def items_found(items: Table, ids: Sequence[str]) -> FewRows:
    """The rows of a catalogue with these ids, as far as it has them.

    Pictures are left out where reading them would take minutes, as out of a huge row group.
    """
    rows_K = rows_of(ids, items.read(["item_id"]).column("item_id"))
    return only_rows(items, np.unique(rows_K[rows_K >= 0]), _PICTURES, MOST_BYTES)


def lacks_pictures(items: Table, found: FewRows) -> bool:
    """Whether the catalogue has pictures that were left out."""
    return any(name in items.column_names and name not in found.column_names for name in _PICTURES)


def result_rows(ids: Sequence[str], scores_K: np.ndarray, found: FewRows | None) -> list[dict[str, Any]]:
    """Results, best first: `rank` (from 1), `item_id` and `score` (the cosine).

    With a catalogue `title` and `category` too, None where it says nothing or has no such item.
    """
    known = _texts(found) if found is not None else {}
    nothing = {} if found is None else {"title": None, "category": None}
    return [
        {"rank": rank, "item_id": key, "score": score} | known.get(key, nothing)
        for rank, (key, score) in enumerate(zip(ids, scores_K.tolist(), strict=True), start=1)
    ]


def products_found(found: FewRows) -> Mapping[str, Product]:
    """The items as products, with their pictures, by id."""
    return {product.key: product for batch in iter_items(found) for product in batch}


def _texts(found: FewRows) -> dict[str, dict[str, str | None]]:
    columns = [name for name in _TOLD if name in found.column_names]
    return {
        row["item_id"]: {"title": row.get("title"), "category": row.get("category")}
        for row in found.read(columns).to_pylist()
    }
