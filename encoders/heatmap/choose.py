"""A few products of a catalogue by their ids, without reading more of it than need be."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np

from encoders.pairs import PairSource
from encoders.products import Product, iter_items
from encoders.training_data import Products
from moonrec.errors import UserError
from moonrec.tables import Table

_ROWS = 64
# Looking for near names among millions would take longer than the drawing.
_COMPARED = 50_000


def chosen_products(items: Table, wanted: Sequence[str]) -> list[Product]:
    """The products with these ids, in the order asked for, each once.

    Raises:
        UserError: no id is given, or the catalogue has no such item.
    """
    if not wanted:
        raise UserError("name at least one product with --item-id")
    ids = items.read(["item_id"]).column("item_id").to_pylist()
    there = set(wanted).intersection(ids)
    for key in wanted:
        if key not in there:
            near = difflib.get_close_matches(key, ids[:_COMPARED], n=3)
            hint = f"near are {_quoted(near)}" if near else f"ids look like {_quoted(ids[:3])}"
            raise UserError(f"--item-id {key!r}: {items.path} has no such item; {hint}")
    found: dict[str, Product] = {}
    for batch in iter_items(items, _ROWS):
        found |= {product.key: product for product in batch if product.key in there}
        if len(found) == len(there):
            break
    return [found[key] for key in dict.fromkeys(wanted)]


def _quoted(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids))


def held_out_items(sources: Sequence[PairSource], products: Products, count: int) -> list[str]:
    """Ids of a few items with a picture that held-out pairs ask for, the first ones of the catalogue."""
    found = [source.validation.positive for source in sources]
    rows = np.unique(np.concatenate([np.zeros(0, np.int64), *found]))
    pictured = rows[products.table.has_image()[rows]]
    return [products.item_ids[row] for row in pictured[:count].tolist()]
