"""What an encoder sees of a product or of a query: at most one picture and a few texts, each with its aspect.

Rows of the `items` table and of the `searches` table both become `Product`s, so that a query photo and a
catalogue photo take the same way through the encoder.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

from moonrec.errors import UserError
from moonrec.images import BrokenImage, image_bytes
from moonrec.tables import Table


class Aspect(IntEnum):
    """What a token tells about its product; MOON's guided experts are chosen by it (MOON, section 3)."""

    IMAGE = 0
    TITLE = 1
    CATEGORY = 2
    ATTRIBUTES = 3
    DESCRIPTION = 4


View = frozenset[Aspect]
"""Which aspects of a product are shown; what is not in it is hidden from the encoder."""

EVERYTHING: View = frozenset(Aspect)
IMAGE_ONLY: View = frozenset({Aspect.IMAGE})
TEXT_ONLY: View = EVERYTHING - IMAGE_ONLY
TITLE_ONLY: View = frozenset({Aspect.TITLE})
RICHER_TEXT: View = TEXT_ONLY

MODALITIES = ("multimodal", "image", "text")
_VIEWS = dict(zip(MODALITIES, (EVERYTHING, IMAGE_ONLY, TEXT_ONLY), strict=True))


def view_of(modality: str) -> View:
    """What `multimodal`, `image` or `text` shows."""
    return _VIEWS[modality]


@dataclass(frozen=True)
class Product:
    """One product or query.

    `image` is the undecoded file; `broken` says why a picture could not be read. `region` is the core region:
    the box (x0, y0, x1, y1), in shares of the upright picture's width and height, in which the product itself
    is; None stands for the whole picture.
    """

    key: str
    image: bytes | None
    texts: tuple[tuple[Aspect, str], ...]
    broken: str | None = None
    region: tuple[float, float, float, float] | None = None

    def digest(self) -> bytes:
        """A digest of the content (not of the key): equal content has equal features."""
        hasher = hashlib.sha256(repr([(int(aspect), text) for aspect, text in self.texts]).encode())
        hasher.update(b"\0image\0" if self.image is not None else b"\0none\0")
        hasher.update(self.image or b"")
        if self.region is not None:
            hasher.update(b"\0region\0" + struct.pack("<4d", *self.region))
        return hasher.digest()


@dataclass
class BrokenImages:
    """Counts pictures that could not be used; the run goes on without them."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, key: str, reason: str) -> None:
        """Count one and keep the first twenty as examples."""
        self.count += 1
        if len(self.examples) < 20:
            self.examples.append((key, reason))

    def to_dict(self) -> dict[str, object]:
        """The JSON form for `metrics.json`."""
        return {
            "count": self.count,
            "examples": [{"id": key, "reason": reason} for key, reason in self.examples],
        }


@dataclass(frozen=True)
class ItemVariant:
    """An item shown in another way, for training (co-augmentation of MOON2.0).

    Attributes:
        item: its catalogue row.
        product: what is shown, under the item's own title, which is the one that its region belongs to.
        title: the enriched title that is shown instead; None where the own one stands.
        pictured: whether the picture is an augmented one.
    """

    item: int
    product: Product
    title: str | None
    pictured: bool

    def shown(self, product: Product) -> Product:
        """`product` (this one, with its region) under the title that is shown."""
        if self.title is None:
            return product
        texts = dict(product.texts) | {Aspect.TITLE: self.title}
        return replace(product, texts=tuple(sorted(texts.items())))


_QUERY_COLUMNS = ("query_text", "query_image")
_ITEM_COLUMNS = ("item_id", "title", "description", "image", "images", "category", "attributes")
VARIANT_COLUMNS = ("title_enriched", "images_augmented")

T = TypeVar("T")


def iter_items(items: Table, batch_size: int = 256) -> Iterator[list[Product]]:
    """The catalogue as batches of products, in file order; without `image`, the first of `images`."""
    return _iter(items, _ITEM_COLUMNS, batch_size, lambda _, row: _item(row, items.folder))


def iter_queries(searches: Table, batch_size: int = 256) -> Iterator[list[Product]]:
    """The queries of a `searches` table as batches of products; query text takes the place of the title."""
    return _iter(searches, _QUERY_COLUMNS, batch_size, lambda n, row: _query(n, row, searches.folder))


def iter_variants(items: Table, batch_size: int = 256) -> Iterator[list[ItemVariant]]:
    """The variants of the catalogue, batch by batch of items, in file order; items may have none.

    An item has one with the enriched title and its own picture, and one per augmented picture, with the
    enriched title if there is one. An augmented picture that cannot be read leaves a variant without one.
    """
    batches = _iter(
        items, (*_ITEM_COLUMNS, *VARIANT_COLUMNS), batch_size, lambda n, row: _variants(n, row, items.folder)
    )
    return ([variant for variants in batch for variant in variants] for batch in batches)


def _iter(
    table: Table, columns: Sequence[str], batch_size: int, make: Callable[[int, dict[str, Any]], T]
) -> Iterator[list[T]]:
    present = [name for name in columns if name in table.column_names]
    number = 0
    for batch in table.batches(present, batch_size):
        products = []
        for row in batch.to_pylist():
            try:
                products.append(make(number, row))
            except UserError as error:
                raise UserError(f"{table.address(number)}: {error}") from error
            number += 1
        yield products


def _item(row: dict[str, Any], folder: Path) -> Product:
    attributes = row.get("attributes") or []
    pairs = attributes.items() if isinstance(attributes, dict) else attributes
    texts = {
        Aspect.TITLE: row.get("title"),
        Aspect.CATEGORY: (row.get("category") or "").replace(" > ", ", "),
        Aspect.ATTRIBUTES: ", ".join(f"{name}: {value}" for name, value in pairs if value),
        Aspect.DESCRIPTION: row.get("description"),
    }
    cell = row.get("image")
    if cell is None or (cell.get("bytes") is None and cell.get("path") is None):
        cell = next(iter(row.get("images") or []), None)
    return _product(row["item_id"], cell, folder, texts)


def _variants(number: int, row: dict[str, Any], folder: Path) -> list[ItemVariant]:
    own = _item(row, folder)
    texts: dict[Aspect, str | None] = dict(own.texts)
    title = (row.get("title_enriched") or "").strip()
    enriched = title if title and title != texts.get(Aspect.TITLE) else None
    found = [] if enriched is None else [ItemVariant(number, replace(own, broken=None), enriched, False)]
    for place, cell in enumerate(row.get("images_augmented") or []):
        product = _product(f"{own.key}, images_augmented[{place}]", cell, folder, texts)
        if product.image is not None or product.broken is not None:
            found.append(ItemVariant(number, product, enriched, True))
    return found


def _query(number: int, row: dict[str, Any], folder: Path) -> Product:
    return _product(f"row {number}", row.get("query_image"), folder, {Aspect.TITLE: row.get("query_text")})


def _product(key: str, cell: dict[str, Any] | None, folder: Path, texts: dict[Aspect, str | None]) -> Product:
    kept = tuple((aspect, text.strip()) for aspect, text in texts.items() if text and text.strip())
    try:
        return Product(key, image_bytes(cell, folder), kept)
    except BrokenImage as error:
        return Product(key, None, kept, broken=str(error))
