"""The embedding set's format, and the stream that writes it.

What is in an embedding set has passed through here, so readers need no checks of values: every id is unique
and not empty, every vector finite and of unit length. An error names the entry, and the set appears under its
name only when it is complete.

Shapes: N entries of one call, M entries of one batch, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moonrec import __version__
from moonrec.atomic import atomic_folder, write_json
from moonrec.embedding_fingerprint import EntryHash
from moonrec.errors import UserError

VECTORS_FILE, METADATA_FILE = "vectors.arrow", "metadata.json"
# Optional; see moonrec/embedding_digests.py.
DIGESTS_FILE = "digests.arrow"
BATCH_ROWS = 65_536
# float16 changes a unit vector's length by less than 1e-3; more than this was never normalised. Ours.
_LENGTH_TOLERANCE = 1e-2


def schema_of(dimension: int) -> pa.Schema:
    """The schema of `vectors.arrow` for vectors of width `dimension`."""
    return pa.schema([("item_id", pa.string()), ("vector", pa.list_(pa.float16(), dimension))])


class BadEntry(UserError):
    """An entry that no embedding set may hold.

    Attributes:
        entry: its 0-based position among all entries written.
        problem: what is wrong with it.
        earlier: for an id that occurs twice, where it occurred first; else None.
    """

    def __init__(self, entry: int, problem: str, earlier: int | None = None) -> None:
        first = "" if earlier is None else f" (first: entry {earlier})"
        super().__init__(f"entry {entry}: {problem}{first}")
        self.entry, self.problem, self.earlier = entry, problem, earlier


class EmbeddingSetWriter:
    """Write an embedding set as a stream.

    ```
    with EmbeddingSetWriter("embeddings", 128, {"modality": "multimodal"}) as writer:
        writer.write(["a", "b"], vectors_2D)
    ```
    An exception inside the block, or a killed process, leaves what was there before: nothing, or the old set.

    Args:
        path: the folder; an embedding set that is there is replaced, anything else is refused.
        dimension: width D of every vector.
        metadata: what to keep in `metadata.json` (`encoder_fingerprint`, `catalogue_fingerprint`, `modality`,
            `matryoshka_sizes`, …); the attribute of this name may be added to until the block ends.

    Attributes:
        folder: where the set stands until the block ends, for an optional file that belongs to it.

    Raises:
        UserError: on entering, `path` holds something else; on leaving, nothing was written or an id occurs
            twice (`BadEntry`).
    """

    def __init__(self, path: str | Path, dimension: int, metadata: dict[str, object]) -> None:
        if dimension < 1:
            raise ValueError(f"dimension {dimension}, expected at least 1")
        self.path = Path(path).resolve()
        self.metadata = dict(metadata)
        self._dimension = dimension
        self._written_ids: list[pa.Array] = []
        self._pending_ids: list[pa.Array] = []
        self._pending_MD = np.empty((BATCH_ROWS, dimension), dtype="<f2")
        self._pending = 0
        self._rows = 0
        self._hash = EntryHash(dimension)

    def __enter__(self) -> Self:
        refuse_other_content(self.path)
        with ExitStack() as stack:
            self.folder = stack.enter_context(atomic_folder(self.path))
            sink = stack.enter_context(pa.OSFile(str(self.folder / VECTORS_FILE), "wb"))
            self._file = stack.enter_context(pa.ipc.new_file(sink, schema_of(self._dimension)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._flush()
            self._refuse_duplicates()
            write_json(self.folder / METADATA_FILE, self._described())

    def write(self, ids: pa.Array | Sequence[str], vectors_ND: NDArray[np.floating[Any]]) -> None:
        """Append entries: `ids` (N) and their vectors (N, D) of unit length, in any float type.

        Raises:
            BadEntry: a null or empty id, or a vector of the wrong width, with NaN or infinite numbers, of
                length zero or not of unit length (tolerance 1 %).
            TypeError: ids that are not strings.
            ValueError: not as many vectors as ids.
        """
        ids = _strings(ids)
        if vectors_ND.ndim != 2 or len(vectors_ND) != len(ids):
            raise ValueError(f"vectors {vectors_ND.shape} for {len(ids)} ids, expected ({len(ids)}, D)")
        start = 0
        while start < len(ids):
            room = slice(start, min(len(ids), start + BATCH_ROWS - self._pending))
            self._append(ids[room], vectors_ND[room])
            start = room.stop

    def _append(self, ids: pa.Array, vectors_ND: NDArray[np.floating[Any]]) -> None:
        _check_entries(ids, vectors_ND, self._dimension, self._rows)
        self._pending_MD[self._pending : self._pending + len(ids)] = vectors_ND
        self._pending_ids.append(ids)
        self._pending += len(ids)
        self._rows += len(ids)
        if self._pending == BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        ids, values_MD = pa.concat_arrays(self._pending_ids), self._pending_MD[: self._pending]
        self._hash.add(ids, values_MD)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values_MD.ravel()), self._dimension)
        self._file.write_batch(pa.record_batch([ids, vectors], schema=schema_of(self._dimension)))
        self._written_ids.append(ids)
        self._pending_ids, self._pending = [], 0

    def _refuse_duplicates(self) -> None:
        """Refuse an empty set and a repeated id; the memory is the ids and one hash table over them."""
        if not self._written_ids:
            raise UserError(f"{self.path}: no embeddings were written, expected at least one")
        ids = pa.chunked_array(self._written_ids)
        if pc.count_distinct(ids).as_py() == len(ids):
            return
        counts = pc.value_counts(ids)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0]
        first, second = np.flatnonzero(pc.equal(ids, twice))[:2].tolist()
        raise BadEntry(second, f"item {twice.as_py()!r} occurs twice", earlier=first)

    def _described(self) -> dict[str, object]:
        return {
            "encoder_fingerprint": None,
            "catalogue_fingerprint": None,
            "modality": None,
            "matryoshka_sizes": [self._dimension],
            **self.metadata,
            "dimension": self._dimension,
            "dtype": "float16",
            "rows": self._rows,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "moonrec_version": __version__,
            "fingerprint": self._hash.fingerprint(),
        }


def refuse_other_content(path: Path) -> None:
    """Raise a UserError when `path` is anything but an embedding set, an empty folder, or not there."""
    if not path.exists():
        return
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else {path.name}
    if names and names - {DIGESTS_FILE} != {VECTORS_FILE, METADATA_FILE}:
        raise UserError(f"{path}: exists and is not just an embedding set; choose another output path")


def _strings(ids: pa.Array | pa.ChunkedArray | Sequence[str]) -> pa.Array:
    if not isinstance(ids, pa.Array | pa.ChunkedArray):
        return pa.array(ids, type=pa.string())
    if not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)):
        raise TypeError(f"ids are {ids.type}, expected strings")
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    return ids.cast(pa.string())


def _check_entries(
    ids: pa.Array, vectors_ND: NDArray[np.floating[Any]], dimension: int, first_entry: int
) -> None:
    """Refuse the first bad entry; `first_entry` is the position of `ids[0]` in the whole set."""
    nameless = np.flatnonzero(pc.fill_null(pc.equal(pc.binary_length(ids), 0), True))
    if nameless.size:
        text = "empty" if ids[nameless[0]].is_valid else "null"
        raise BadEntry(first_entry + int(nameless[0]), f"item_id is {text}, expected a text")
    width = vectors_ND.shape[1]
    if width != dimension:
        raise BadEntry(first_entry, f"item {ids[0].as_py()!r} has {width} numbers, expected {dimension}")
    with np.errstate(over="ignore", invalid="ignore"):
        vectors_ND = vectors_ND.astype(np.float32, copy=False)
        length_N = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
    bad = np.flatnonzero(~(np.abs(length_N - 1) <= _LENGTH_TOLERANCE))  # so written that NaN is bad, too
    if bad.size:
        problem = _vector_problem(vectors_ND[bad[0]])
        raise BadEntry(first_entry + int(bad[0]), f"item {ids[bad[0]].as_py()!r} has {problem}")


def _vector_problem(vector_D: NDArray[Any]) -> str:
    if not np.isfinite(vector_D).all():
        position = int(np.flatnonzero(~np.isfinite(vector_D))[0])
        return f"{vector_D[position]} at position {position} of its vector, expected finite numbers"
    length = np.linalg.norm(vector_D.astype(np.float64))
    if length == 0:
        return "a zero vector, which has no direction; leave such items out"
    return f"a vector of length {length:.4g}, expected 1; divide it by its length (import: --normalize)"
