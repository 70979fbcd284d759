"""The last step of an export: its parts, in the order of the catalogue, become the embedding set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from encoders.encoding_stream import Cost
from encoders.export_parts import COPIED, EMPTY, ENCODED, PartStore
from encoders.export_update import OlderSet
from encoders.products import BrokenImages
from moonrec.embedding_digests import METADATA_KEY, DigestWriter
from moonrec.embedding_set import EmbeddingSetWriter


class Totals:
    """What the parts hold together.

    Attributes:
        states: how many products are EMPTY, ENCODED and COPIED, in that order.
        unusable: pictures that could not be used.
        cost: what encoding took, the seconds of all processes added up.
        ids: of all products of the catalogue.
    """

    def __init__(self, store: PartStore) -> None:
        self.states = np.zeros(3, np.int64)
        self.unusable = BrokenImages()
        self.cost = Cost()
        ids: list[pa.Array] = []
        for number in range(len(store.parts)):
            part = store.read(number)
            self.states += np.bincount(part.state, minlength=3)
            self.cost += part.cost
            self.unusable.count += part.unusable.count
            self.unusable.examples = (self.unusable.examples + part.unusable.examples)[:20]
            ids.append(part.ids)
        self.ids = pa.chunked_array(ids, pa.string())

    def counts(self, older: OlderSet | None) -> dict[str, int]:
        """Rows of the set, and where they are from; `dropped` items stand in the older set alone."""
        empty, encoded, copied = (int(self.states[state]) for state in (EMPTY, ENCODED, COPIED))
        dropped = older.count_missing_from(self.ids) if older is not None else 0
        rows = encoded + copied
        return {"rows": rows, "empty": empty, "encoded": encoded, "copied": copied, "dropped": dropped}


@contextmanager
def joined(store: PartStore, dim: int, metadata: dict[str, Any]) -> Iterator[EmbeddingSetWriter]:
    """Write the embedding set of all parts; it is complete, and replaces an older one, when the block ends.

    Raises:
        UserError: the disk is full, or something else stands in the set's place.
    """
    with EmbeddingSetWriter(store.out, dim, metadata) as writer:
        with DigestWriter(writer.folder) as digests:
            for number in range(len(store.parts)):
                part = store.read(number)
                covered = part.covered()
                rows = pa.array(covered)
                writer.write(part.ids.take(rows), part.vectors[covered])
                digests.write(part.digests.take(rows), pa.array(part.broken[covered]))
        writer.metadata[METADATA_KEY] = digests.sha256
        yield writer
