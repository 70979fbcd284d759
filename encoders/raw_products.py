"""Undecoded products by row, for backbones that read pictures and words themselves, batch by batch.

The files of the pictures and the texts are spooled to one temporary file without a name, so that a catalogue
larger than the memory is shuffled freely and nothing is left behind, however the process ends. Pictures are
decoded twice: once on arrival, at the smallest scale that the format offers, to learn whether they can be
used at all (who may stand in a training pair must be known before the first batch), and once per batch.

Shapes: N products of a table, B products of a batch.
"""

from __future__ import annotations

import math
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from PIL import Image

from encoders.product_spool import ProductSpool
from encoders.products import EVERYTHING, Aspect, BrokenImages, Product, View
from moonrec.images import BrokenImage, decode_image

if TYPE_CHECKING:
    from encoders.encoder import ProductBatch, ProductTable

SHARD_ROWS = 256
# About what one token of English product text takes, in characters; only orders products by length.
_CHARACTERS_PER_TOKEN = 4
# To see whether a JPEG decodes, an eighth of its sides is enough.
_CHECK_SIZE = 32

T = TypeVar("T")
R = TypeVar("R")


class Collate(Protocol):
    """How a backbone makes a batch of products; what `view` hides must not enter it."""

    def __call__(self, products: list[Product], view: View) -> ProductBatch:
        """A batch of `products` in their order."""


class RawProducts:
    """Undecoded products by row. A picture that does not decode is hidden: no `image`, `broken` says why."""

    def __init__(self, read: Callable[[int], Product], has_image: array[int], characters: array[int]) -> None:
        self._read = read
        self._has_image = np.array(has_image, bool)
        self._characters = np.array(characters, np.int64)

    @classmethod
    def build(
        cls, batches: Iterable[list[Product]], broken: BrokenImages, folder: Path | None = None
    ) -> RawProducts:
        """Spool all products to an unnamed file in `folder` (default: the system's temporary folder).

        Args:
            batches: the products, in the order of their rows.
            broken: counts the pictures that cannot be used, once per product.
            folder: where the file lies; it takes as much room as the pictures' own files together.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        spool = ProductSpool(folder)
        has_image, characters = array("b"), array("q")
        for products in batches:
            checked = _hide_broken(products, broken)
            spool.append(checked)
            _note(checked, has_image, characters)
        spool.flush()
        return cls(spool.read, has_image, characters)

    @classmethod
    def in_memory(cls, products: list[Product], broken: BrokenImages) -> RawProducts:
        """The same for a few products, which stay in memory."""
        checked = _hide_broken(products, broken)
        has_image, characters = array("b"), array("q")
        _note(checked, has_image, characters)
        return cls(checked.__getitem__, has_image, characters)

    def __len__(self) -> int:
        return len(self._has_image)

    def products(self, rows: np.ndarray) -> list[Product]:
        """The products at `rows` (B,); may be called from several threads."""
        return [self._read(row) for row in rows.tolist()]

    def has_image(self) -> np.ndarray:
        """Which products (N,) have a picture that decodes."""
        return self._has_image

    def has_text(self) -> np.ndarray:
        """Which products (N,) have any words."""
        return self._characters > 0

    def text_characters(self) -> np.ndarray:
        """Characters of all texts of each product (N,)."""
        return self._characters


class RawTable:
    """Raw products and a backbone's collate function: a table to gather batches from.

    Args:
        products: the products by row.
        collate: makes a batch of some of them.
        image_tokens: about how many tokens a picture becomes, counted in `lengths`.
    """

    def __init__(self, products: RawProducts, collate: Collate, image_tokens: int = 0) -> None:
        self.products = products
        self._collate = collate
        self._image_tokens = image_tokens

    def __len__(self) -> int:
        return len(self.products)

    def gather(self, rows: np.ndarray, view: View = EVERYTHING) -> ProductBatch:
        """The products at `rows` (B,) as one batch that shows what `view` names."""
        return self._collate(self.products.products(rows), view)

    def lengths(self) -> np.ndarray:
        """About how many tokens each product (N,) has, for batching by length."""
        words = self.products.text_characters() // _CHARACTERS_PER_TOKEN
        return words + self._image_tokens * self.has_image()

    def has_image(self) -> np.ndarray:
        """Which products (N,) have a picture that decodes."""
        return self.products.has_image()

    def has_text(self) -> np.ndarray:
        """Which products (N,) have any words."""
        return self.products.has_text()


class RawPreparer:
    """Prepares products for a backbone that reads them raw.

    Args:
        collate: the backbone's way to make a batch.
        image_tokens: about how many tokens a picture becomes.
        folder: where the spool of `table` lies; default: the system's temporary folder.
    """

    def __init__(self, collate: Collate, *, image_tokens: int = 0, folder: Path | None = None) -> None:
        self._collate = collate
        self._image_tokens = image_tokens
        self._folder = folder
        self.broken = BrokenImages()

    def table(self, *tables: Iterable[list[Product]]) -> RawTable:
        """All products of one or several tables, one after the other, spooled to disk.

        Raises:
            UserError: the disk is full or the spool's folder cannot be written.
        """
        products = RawProducts.build(chain(*tables), self.broken, self._folder)
        return RawTable(products, self._collate, self._image_tokens)

    def shards(self, batches: Iterable[list[Product]]) -> Iterator[tuple[list[str], RawTable]]:
        """Keys and products, 256 at a time and never more than three such groups in memory."""
        return ahead(self._shard, regroup(batches, SHARD_ROWS))

    def _shard(self, products: list[Product]) -> tuple[list[str], RawTable]:
        raw = RawProducts.in_memory(products, self.broken)
        return [product.key for product in products], RawTable(raw, self._collate, self._image_tokens)


def prefetch(
    table: ProductTable, parts: Iterable[np.ndarray], view: View = EVERYTHING
) -> Iterator[ProductBatch]:
    """Gather batches of `table` (rows of each in `parts`), the next while the caller computes on this one."""
    return ahead(lambda rows: table.gather(rows, view), parts)


def ahead(make: Callable[[T], R], inputs: Iterable[T]) -> Iterator[R]:
    """`map`, one result ahead of the caller in a background thread.

    The order is kept, an exception of `make` is raised where its result would have come, and a caller that
    stops early leaves no thread behind.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as worker:
        waiting: deque[Future[R]] = deque()
        try:
            for value in inputs:
                waiting.append(worker.submit(make, value))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def regroup(batches: Iterable[list[Product]], size: int) -> Iterator[list[Product]]:
    """The same products in groups of `size`, the last one smaller."""
    group: list[Product] = []
    for batch in batches:
        group += batch
        while len(group) >= size:
            yield group[:size]
            group = group[size:]
    if group:
        yield group


def shown(product: Product, view: View) -> Product:
    """The product without what `view` hides; a picture that nobody looks at is not broken either."""
    texts = tuple((aspect, text) for aspect, text in product.texts if aspect in view)
    if Aspect.IMAGE in view:
        return replace(product, texts=texts)
    return replace(product, texts=texts, image=None, broken=None, region=None)


def decode_all(
    products: Sequence[Product], size: int | tuple[int, int], *, regions: bool = True
) -> list[list[Image.Image]]:
    """`decode_views` of every product, in parallel."""
    return in_threads(lambda product: decode_views(product, size, regions=regions), products)


def in_threads(make: Callable[[T], R], inputs: Iterable[T]) -> list[R]:
    """`map` in as many threads as there are cores: for Pillow, which lets go of the interpreter."""
    return list(_pool().map(make, inputs))


def decode_views(product: Product, size: int | tuple[int, int], *, regions: bool = True) -> list[Image.Image]:
    """The pictures that an encoder sees of a product: the whole one, then the core region if there is one.

    Args:
        product: a product whose picture is known to decode, or without one (no pictures then).
        size: the side, or (width, height), to which the caller will shrink either picture: large JPEGs are
            decoded at a smaller scale that still suffices. The pictures returned are not of this size.
        regions: whether the core region is wanted.

    Raises:
        BrokenImage: the picture does not decode.
    """
    if product.image is None:
        return []
    side = size if isinstance(size, int) else max(size)
    if not regions or product.region is None:
        return [decode_image(product.image, draft_size=side)]
    left, top, right, bottom = product.region
    share = max(min(right - left, bottom - top), 0.05)
    whole = decode_image(product.image, draft_size=math.ceil(side / share))
    x0 = min(max(math.floor(left * whole.width), 0), whole.width - 1)
    y0 = min(max(math.floor(top * whole.height), 0), whole.height - 1)
    x1 = max(min(math.ceil(right * whole.width), whole.width), x0 + 1)
    y1 = max(min(math.ceil(bottom * whole.height), whole.height), y0 + 1)
    return [whole, whole.crop((x0, y0, x1, y1))]


def _note(products: Sequence[Product], has_image: array[int], characters: array[int]) -> None:
    has_image.extend(product.image is not None for product in products)
    characters.extend(sum(len(text) for _, text in product.texts) for product in products)


def _hide_broken(products: Sequence[Product], broken: BrokenImages) -> list[Product]:
    checked = in_threads(_checked, products)
    for product in checked:
        if product.broken is not None:
            broken.add(product.key, product.broken)
    return checked


def _checked(product: Product) -> Product:
    if product.image is None:
        return product
    try:
        decode_image(product.image, draft_size=_CHECK_SIZE)
    except BrokenImage as error:
        return replace(product, image=None, broken=str(error))
    return product


@cache
def _pool() -> ThreadPoolExecutor:
    """One pool for the whole process, however many tables there are."""
    return ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="decode")
