"""The catalogue as searches are ranked against it: one pass over the items, vectors of every view needed.

A view hides whole modalities here, never one text of several: a text tower reads a product's texts together,
so that its tokens of one text know the others.

Shapes: N items of the table, M items that show anything, E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.products import Product, View, iter_items
from encoders.queries import image_digest, text_digest
from moonrec.embedding_set import EmbeddingSet
from moonrec.nearest import Blocks
from moonrec.tables import Table


@dataclass(frozen=True)
class Catalogue:
    """What is searched: ids (M,) and the vectors that belong to them."""

    ids: pa.Array | pa.ChunkedArray
    vectors: Blocks

    @classmethod
    def of(cls, embeddings: EmbeddingSet) -> Catalogue:
        """A ready embedding set."""
        return cls(embeddings.ids, embeddings)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class ShownItems:
    """Vectors of the items that show anything in one view: float16, in parts, with the items' rows."""

    rows: list[np.ndarray] = field(default_factory=list)
    blocks: list[np.ndarray] = field(default_factory=list)

    def add(self, first_row: int, vectors_NE: np.ndarray, empty_N: np.ndarray) -> None:
        """Take the vectors of the items from `first_row` on."""
        self.rows.append(first_row + np.flatnonzero(~empty_N))
        self.blocks.append(vectors_NE[~empty_N].astype(np.float16))

    def row_M(self) -> np.ndarray:
        """The items' rows, ascending."""
        return np.concatenate([np.zeros(0, np.int64), *self.rows])

    def only(self, row_K: np.ndarray) -> Iterator[np.ndarray]:
        """The vectors of those items whose rows are among the ascending `row_K` (not empty), part by part."""
        for rows, block in zip(self.rows, self.blocks, strict=True):
            place = np.searchsorted(row_K, rows).clip(max=len(row_K) - 1)
            yield block[row_K[place] == rows]


@dataclass
class EncodedItems:
    """The catalogue's ids (N,), its vectors by view, and, where asked for, what is equal in it.

    `picture_N` and `words_N` are digests of each item's picture and of its texts.
    """

    ids: pa.Array
    shown: dict[View, ShownItems]
    picture_N: list[bytes] = field(default_factory=list)
    words_N: list[bytes] = field(default_factory=list)

    def catalogue(self, view: View) -> Catalogue:
        """What searches are ranked against in this view."""
        found = self.shown[view]
        return Catalogue(self.ids.take(pa.array(found.row_M())), lambda: iter(found.blocks))


def encode_items(
    items: Table, worker: WorkingEncoder, views: Collection[View], *, digests: bool = False
) -> EncodedItems:
    """Encode every item in each of the views.

    Args:
        items: the catalogue.
        worker: what encodes it.
        views: each hides whole modalities.
        digests: whether equal pictures and equal words are to be known.
    """
    ids: list[str] = []
    found = EncodedItems(pa.array([], pa.string()), {view: ShownItems() for view in views})

    def noted() -> Iterator[list[Product]]:
        for products in iter_items(items):
            ids.extend(product.key for product in products)
            if digests:
                found.picture_N += [image_digest(product) for product in products]
                found.words_N += [text_digest(product) for product in products]
            yield products

    first_row = 0
    for shard in worker.shards(noted(), items, "catalogue"):
        for view, shown in found.shown.items():
            shown.add(first_row, *worker.vectors(shard, view))
        first_row += len(shard)
    found.ids = pa.array(ids, pa.string())
    return found
