"""An older embedding set of the same encoder, from which the vectors of unchanged products are copied."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from encoders.products import Product
from moonrec.embedding_digests import DIGEST_BYTES, Digests
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError
from moonrec.ids import rows_of


def digests_of(products: Sequence[Product]) -> pa.FixedSizeBinaryArray:
    """16 bytes per product (N) for its id and its content: texts, picture and core region."""
    return pa.array([_digest(product) for product in products], pa.binary(DIGEST_BYTES))


class OlderSet:
    """The set of an earlier export, opened by every process.

    Args:
        path: the set.
        encoder_fingerprint, modality, dim: what the new set will have, and the older one must have.

    Raises:
        UserError: no such set, or one that cannot be copied from; the message says why.
    """

    def __init__(self, path: str | Path, *, encoder_fingerprint: str, modality: str, dim: int) -> None:
        self._set = EmbeddingSet.open(path)
        wanted = {"encoder_fingerprint": encoder_fingerprint, "modality": modality, "dimension": dim}
        names = {"encoder_fingerprint": "encoder", "modality": "--modality", "dimension": "--dim"}
        for key, value in wanted.items():
            if (found := self._set.metadata.get(key)) != value:
                raise UserError(
                    f"--update {path}: was made with another {names[key]} ({_short(found)}, now "
                    f"{_short(value)}); export without --update, or to the older set's options"
                )
        self._digests = Digests(self._set)
        self.fingerprint = self._set.fingerprint

    def rows_of(self, digests: pa.FixedSizeBinaryArray) -> NDArray[np.int64]:
        """Row of each product (N) that is here as it was, 0 of those that are new or changed."""
        return self._digests.rows_of(digests)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """The vectors (N, E) in these rows."""
        return self._set.vectors(rows)

    def broken(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the products in these rows (N) had a picture that could not be used."""
        return self._digests.broken(rows)

    def count_missing_from(self, ids: pa.ChunkedArray) -> int:
        """How many items of this set are not among `ids`."""
        return int(np.count_nonzero(rows_of(self._set.ids, ids) < 0))


def _digest(product: Product) -> bytes:
    key = product.key.encode()
    return hashlib.sha256(len(key).to_bytes(8, "little") + key + product.digest()).digest()[:DIGEST_BYTES]


def _short(value: object) -> str:
    return str(value)[:12]
