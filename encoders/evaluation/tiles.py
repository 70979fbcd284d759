"""Queries and products as small pictures with a line of words, in the form of `examples.json`.

A tile is `{"image": base64 of a JPEG file or null, "label", "note", "hit"}`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from encoders.evaluation.ranked import SEARCHES
from encoders.products import Aspect, Product, iter_items, iter_queries
from moonrec.ids import rows_of
from moonrec.images import BrokenImage, decode_image
from moonrec.table_rows import only_rows
from moonrec.tables import Table

SIDE = 96
_QUALITY, _LETTERS = 60, 90
# Ours: a few seconds of reading; beyond that the examples are shown without pictures.
MOST_BYTES = 4 * 2**30
_PICTURES = ("image", "images", "query_image")


def tile(image: str | None, label: str, note: str = "", hit: bool | None = None) -> dict[str, Any]:
    """One tile."""
    return {"image": image, "label": label, "note": note, "hit": hit}


@dataclass
class Gallery:
    """Products by id, and queries by row of the table that they come from; made by `Gallery.of`."""

    items: Mapping[str, Product]
    queries: Mapping[tuple[str, int], Product]
    _thumbnails: dict[int, str | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        searches: Table,
        items: Table | None,
        wanted_ids: Iterable[str],
        wanted_queries: Iterable[tuple[str, int]],
    ) -> Gallery:
        """Read what will be shown.

        Args:
            searches, items: the tables.
            wanted_ids: ids of items; what the catalogue does not have is shown by its id.
            wanted_queries: rows, each with the name of its table (`searches` or `catalogue`).
        """
        asked = sorted(set(wanted_queries))
        search_rows = [row for table, row in asked if table == SEARCHES]
        item_rows = [row for table, row in asked if table != SEARCHES]
        shown = _read_queries(searches, search_rows)
        queries = {(SEARCHES, row): product for row, product in zip(search_rows, shown, strict=True)}
        products: dict[str, Product] = {}
        if items is not None:
            found = rows_of(sorted(set(wanted_ids)), items.read(["item_id"]).column("item_id"))
            chosen = np.union1d(found[found >= 0], np.array(item_rows, np.int64))
            by_row = dict(zip(chosen.tolist(), _read_items(items, chosen), strict=True))
            products = {product.key: product for product in by_row.values()}
            queries |= {(table, row): by_row[row] for table, row in asked if table != SEARCHES}
        return cls(products, queries)

    def item(self, key: str, note: str, hit: bool | None = None) -> dict[str, Any]:
        """An item: its photo and its title, or its id where the catalogue does not have it."""
        product = self.items.get(key, Product(key, None, ()))
        return tile(self._thumbnail(product), label_of(product) or key, note, hit)

    def query(
        self, of: tuple[str, int], own_item: str | None, *, picture: bool, words: bool
    ) -> dict[str, Any]:
        """A query, with no more than it shows; a photo that is not in its row is that of its own item."""
        product = self.queries[of]
        image = None
        if picture:
            image = self._thumbnail(product)
            if image is None and own_item is not None and own_item in self.items:
                image = self._thumbnail(self.items[own_item])
        return tile(image, label_of(product) if words else "photo")

    def _thumbnail(self, product: Product) -> str | None:
        key = id(product)
        if key not in self._thumbnails:
            self._thumbnails[key] = thumbnail(product.image)
        return self._thumbnails[key]


def label_of(product: Product) -> str:
    """The title, otherwise the first text, as one line of at most some 90 letters."""
    texts = dict(product.texts)
    text = texts.get(Aspect.TITLE) or next(iter(texts.values()), "")
    line = " ".join("".join(one if one.isprintable() else " " for one in text[: 4 * _LETTERS]).split())
    return line if len(line) <= _LETTERS else f"{line[:_LETTERS].rstrip()}…"


def thumbnail(image: bytes | None) -> str | None:
    """A JPEG of at most 96 pixels a side, in base64; None for no picture or one that cannot be used."""
    if image is None:
        return None
    try:
        picture = decode_image(image, draft_size=SIDE)
    except BrokenImage:
        return None
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _read_items(items: Table, rows: np.ndarray) -> list[Product]:
    few = only_rows(items, rows, _PICTURES, MOST_BYTES)
    return [product for batch in iter_items(few) for product in batch]


def _read_queries(searches: Table, rows: list[int]) -> list[Product]:
    few = only_rows(searches, np.array(rows, np.int64), _PICTURES, MOST_BYTES)
    if not {"query_text", "query_image"}.intersection(few.column_names):
        return [Product(f"row {row}", None, ()) for row in rows]  # only pictures, and these cost too much
    return [product for batch in iter_queries(few) for product in batch]
