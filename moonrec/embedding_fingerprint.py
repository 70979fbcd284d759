"""The fingerprint of an embedding set: sha256 over its ids and vectors, batch by batch.

Shapes: M entries of a batch, D embedding width.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from moonrec.embedding_set import EmbeddingSet


class EntryHash:
    """Takes in the batches of a set in file order.

    Args:
        dimension: D above.
    """

    def __init__(self, dimension: int) -> None:
        self._hash = hashlib.sha256(f"moonrec embedding set {dimension}\n".encode())

    def add(self, ids: pa.Array, values_MD: NDArray[np.floating[Any]]) -> None:
        """Hash one batch: lengths and text of the ids (M, strings), bytes of the vectors (float16).

        By batch, because the bounds of batches do not depend on how the entries were cut into write() calls.
        """
        _, offsets, text = ids.buffers()
        bounds = np.frombuffer(offsets, dtype=np.int32)[ids.offset : ids.offset + len(ids) + 1]
        self._hash.update(np.diff(bounds).astype("<i4").tobytes())
        self._hash.update(memoryview(text)[bounds[0] : bounds[-1]])
        self._hash.update(values_MD.data)

    def fingerprint(self) -> str:
        """That of all entries so far."""
        return self._hash.hexdigest()


def is_intact(vectors: EmbeddingSet) -> bool:
    """Whether a set holds the ids and vectors that it was written with; reads all of them.

    Raises:
        UserError: the ids in the file are damaged.
    """
    entries = EntryHash(vectors.dimension)
    for ids, values_MD in zip(vectors.ids.chunks, vectors.blocks(), strict=True):
        entries.add(ids, values_MD)
    return entries.fingerprint() == vectors.fingerprint
