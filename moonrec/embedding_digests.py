"""What the products of an embedding set held when they were encoded: an optional third file of the set.

`digests.arrow` (Arrow IPC) has one row per entry of `vectors.arrow`, in the same order: 16 bytes that stand
for the item's id and content, and whether it had a picture that could not be used. With it a later export
sees which products are as they were. Its sha256 stands in `metadata.json` under `digests`.

Shapes: N entries of the set, M entries of one call.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moonrec.embedding_set import EmbeddingSet
from moonrec.embedding_writer import DIGESTS_FILE
from moonrec.errors import UserError

DIGEST_BYTES = 16
METADATA_KEY = "digests"
_SCHEMA = pa.schema([("digest", pa.binary(DIGEST_BYTES)), ("broken", pa.bool_())])
_MEND = "export the catalogue once without --update"


class DigestWriter:
    """Write `digests.arrow` into an embedding set that is being written, batch by batch.

    ```
    with EmbeddingSetWriter(...) as writer:
        with DigestWriter(writer.folder) as digests:
            ...
        writer.metadata["digests"] = digests.sha256
    ```

    Attributes:
        sha256: of the file, once the block has ended.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DIGESTS_FILE
        self.sha256 = ""

    def __enter__(self) -> Self:
        self._sink = pa.OSFile(str(self._path), "wb")
        self._file = pa.ipc.new_file(self._sink, _SCHEMA)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._sink.close()
        if error is None:
            self.sha256 = _sha256(self._path)

    def write(self, digests: pa.FixedSizeBinaryArray, broken: pa.BooleanArray) -> None:
        """Append the digests (M) and flags (M) of the entries that were written to the set."""
        self._file.write_batch(pa.record_batch([digests, broken], schema=_SCHEMA))


class Digests:
    """The digests of an embedding set, for finding entries of the same id and content.

    Args:
        embeddings: the set; its digests are checked against its metadata.

    Raises:
        UserError: the set has none, or they are not those that were written with it.
    """

    def __init__(self, embeddings: EmbeddingSet) -> None:
        path = embeddings.path / DIGESTS_FILE
        if not path.is_file() or METADATA_KEY not in embeddings.metadata:
            raise UserError(
                f"{embeddings.path}: holds no {DIGESTS_FILE}, so nobody can tell which of its products are "
                f"unchanged; {_MEND}"
            )
        if _sha256(path) != embeddings.metadata[METADATA_KEY]:
            raise UserError(f"{path}: is not the file that was written with this set; {_MEND}")
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if table.schema != _SCHEMA or len(table) != len(embeddings):
            raise UserError(f"{path}: does not fit the vectors beside it; {_MEND}")
        self._broken: NDArray[np.bool_] = table.column("broken").to_numpy()
        self._prefix_N, self._rest_N = _halves(table.column("digest").combine_chunks())
        self._order_N = np.argsort(self._prefix_N, kind="stable")
        self._sorted_N = self._prefix_N[self._order_N]

    def rows_of(self, digests: pa.FixedSizeBinaryArray) -> NDArray[np.int64]:
        """Row of each digest (M) in look-ups of the set (entry number + 1); 0 where there is none like it."""
        prefix_M, rest_M = _halves(digests)
        place_M = np.searchsorted(self._sorted_N, prefix_M).clip(max=len(self._order_N) - 1)
        entry_M = self._order_N[place_M]
        same_M = (self._prefix_N[entry_M] == prefix_M) & (self._rest_N[entry_M] == rest_M)
        return np.where(same_M, entry_M + 1, 0)

    def broken(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the entries at these rows (M, each at least 1) had a picture that could not be used."""
        return self._broken[rows - 1]


def _halves(digests: pa.FixedSizeBinaryArray) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The digests (M) as two numbers each; the first 64 bits are enough to order them by."""
    _, data = digests.buffers()
    numbers = np.frombuffer(data, "<u8", 2 * len(digests), digests.offset * DIGEST_BYTES).reshape(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
