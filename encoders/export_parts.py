"""Finished parts of an export: the vectors of some rows of the catalogue, and what became of the others.

Shapes: N products of a part, E dimensions that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from encoders.encoding_stream import Cost
from encoders.part_store import PartFiles
from encoders.products import BrokenImages
from moonrec.embedding_digests import DIGEST_BYTES

EMPTY, ENCODED, COPIED = range(3)


@dataclass
class Part:
    """The products of one part, in the order of the catalogue.

    Attributes:
        ids: item ids (N).
        digests: 16 bytes (N) that stand for id and content.
        broken: which products (N) have a picture that cannot be used.
        state: EMPTY, ENCODED or COPIED (N), uint8.
        vectors: float16 (N, E); zero where the state is EMPTY.
        unusable: the broken pictures, with reasons.
        cost: what encoding took.
    """

    ids: pa.StringArray
    digests: pa.FixedSizeBinaryArray
    broken: np.ndarray
    state: np.ndarray
    vectors: np.ndarray
    unusable: BrokenImages
    cost: Cost

    def covered(self) -> np.ndarray:
        """The rows that have a vector."""
        return np.flatnonzero(self.state != EMPTY)


class PartStore(PartFiles):
    """The parts of an export to `out`, on a disk that all of its processes see.

    Args:
        out: the embedding set to be.
        parts: the row ranges of the catalogue's parts.
        dim: the number E of dimensions.
    """

    def __init__(self, out: Path, parts: list[range], dim: int) -> None:
        super().__init__(out, parts, "export")
        self._dim = dim

    def write(self, number: int, part: Part) -> None:
        """Write one part; it is there as a whole or not at all."""
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.vectors.ravel()), self._dim)
        columns = [part.ids, part.digests, pa.array(part.broken), pa.array(part.state), vectors]
        batch = pa.record_batch(columns, schema=self._schema())
        self._write(number, batch, {"unusable": part.unusable.to_dict(), "cost": vars(part.cost)})

    def read(self, number: int) -> Part:
        """A finished part, mapped into memory."""
        batch, notes = self._read(number)
        ids, digests, broken, state, vectors = batch.columns
        unusable = notes["unusable"]
        return Part(
            ids=ids,
            digests=digests,
            broken=broken.to_numpy(zero_copy_only=False),
            state=state.to_numpy(),
            vectors=vectors.values.to_numpy().reshape(-1, self._dim),
            unusable=BrokenImages(unusable["count"], [(e["id"], e["reason"]) for e in unusable["examples"]]),
            cost=Cost(**notes["cost"]),
        )

    def _schema(self) -> pa.Schema:
        return pa.schema(
            [
                ("item_id", pa.string()),
                ("digest", pa.binary(DIGEST_BYTES)),
                ("broken", pa.bool_()),
                ("state", pa.uint8()),
                ("vector", pa.list_(pa.float16(), self._dim)),
            ]
        )
