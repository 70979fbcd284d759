"""One part of an export while it is made: what an older set knows is copied, the rest waits to be encoded.

Shapes: N products of the part, M products of a shard, E dimensions that are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from encoders.encoding import shortened
from encoders.encoding_stream import Cost, EncodedShard
from encoders.export_parts import COPIED, EMPTY, ENCODED, Part
from encoders.export_update import OlderSet, digests_of
from encoders.products import BrokenImages, Product
from moonrec.embedding_digests import DIGEST_BYTES
from moonrec.errors import UserError


class PartBuilder:
    """Collects the products of one part and their vectors.

    Args:
        rows: the number N of its products.
        dim: the number E of dimensions to keep.
        older: a set to copy unchanged products from, if there is one.
    """

    def __init__(self, rows: int, dim: int, older: OlderSet | None) -> None:
        self._older = older
        self._keys: list[str] = []
        self._digests: list[pa.FixedSizeBinaryArray] = []
        self._pictured = np.zeros(rows, bool)
        self._broken = np.zeros(rows, bool)
        self._state = np.full(rows, EMPTY, np.uint8)
        self._vectors = np.zeros((rows, dim), np.float16)
        self._waiting: list[int] = []
        self._encoded = 0

    def to_encode(self, batches: Iterable[list[Product]]) -> Iterator[list[Product]]:
        """Take note of all products; yield those of which there is no vector yet, in their order."""
        for products in batches:
            digests = digests_of(products)
            first = len(self._keys)
            self._keys += [product.key for product in products]
            self._digests.append(digests)
            shown = [product.image is not None or product.broken is not None for product in products]
            self._pictured[first : first + len(products)] = shown
            new = self._copy(first, digests)
            self._waiting += (first + new).tolist()
            yield [products[row] for row in new.tolist()]

    def add(self, shard: EncodedShard) -> None:
        """Take the vectors (M, E') of the next products that were waiting.

        Raises:
            UserError: a vector that is not finite.
        """
        rows = np.array(self._waiting[self._encoded : self._encoded + len(shard.empty)], np.int64)
        self._encoded += len(rows)
        self._broken[rows] = self._pictured[rows] & ~shard.has_image
        dim = self._vectors.shape[1]
        vectors = shortened(shard.vectors[~shard.empty], dim)
        covered = rows[~shard.empty]
        bad = np.flatnonzero(~np.isfinite(vectors).all(1))
        if len(bad):
            raise UserError(
                f"item {self._keys[covered[bad[0]]]!r}: its vector is not finite; the encoder is damaged, or "
                "its numbers leave the range of the precision that it runs in"
            )
        self._vectors[covered] = vectors
        self._state[covered] = ENCODED

    def finished(self, unusable: BrokenImages, cost: Cost) -> Part:
        """The part, when all its products have come and all that waited are encoded.

        Args:
            unusable: the broken pictures among the encoded products; those of the copied ones are added.
            cost: what encoding took.
        """
        for row in np.flatnonzero(self._broken & (self._state == COPIED)).tolist():
            unusable.add(self._keys[row], "could not be used when it was encoded")
        return Part(
            ids=pa.array(self._keys, pa.string()),
            digests=pa.concat_arrays([pa.array([], pa.binary(DIGEST_BYTES)), *self._digests]),
            broken=self._broken,
            state=self._state,
            vectors=self._vectors,
            unusable=unusable,
            cost=cost,
        )

    def _copy(self, first: int, digests: pa.FixedSizeBinaryArray) -> np.ndarray:
        """Copy the products from row `first` on that are unchanged; returns which of them are not."""
        if self._older is None:
            return np.arange(len(digests))
        older_rows = self._older.rows_of(digests)
        same = np.flatnonzero(older_rows)
        rows = first + same
        self._vectors[rows] = self._older.vectors(older_rows[same])
        self._broken[rows] = self._older.broken(older_rows[same])
        self._state[rows] = COPIED
        return np.flatnonzero(older_rows == 0)
