"""Frozen item vectors on disk: the one place where encoders and ranking models meet.

An embedding set is a folder with `vectors.arrow` (Arrow IPC file, uncompressed, so that the operating system
maps it and pages in only the rows that are read) and `metadata.json`. Opening one reads the file's footer and
the batch headers, never a vector, so ten million rows open in milliseconds. Row 0 of every look-up is the
unknown item, a zero vector; entry i of the file is row i + 1.

Shapes: N entries, M entries of one batch, D embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moonrec.embedding_writer import METADATA_FILE, VECTORS_FILE, EmbeddingSetWriter
from moonrec.errors import UserError
from moonrec.ids import rows_of

__all__ = ["EmbeddingSet", "EmbeddingSetWriter"]

_MEND = "export or import the embeddings again"


class EmbeddingSet:
    """A memory-mapped embedding set; open one with `EmbeddingSet.open(path)`.

    It is read-only and cheap to share between forked processes: nothing but look-ups is ever copied.

    Attributes:
        path: the folder.
        dimension: width D of a vector.
        metadata: what `metadata.json` holds (encoder and catalogue fingerprints, modality, …).
        fingerprint: sha256 over ids and vectors, the same for two exports of the same vectors.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], batches: list[pa.RecordBatch]) -> None:
        self.path = path
        self.metadata = metadata
        self.dimension: int = metadata["dimension"]
        self.fingerprint: str = metadata["fingerprint"]
        self._batches = batches
        self._first_entry = np.cumsum([0] + [batch.num_rows for batch in batches])

    @classmethod
    def open(cls, path: str | Path) -> EmbeddingSet:
        """Map the embedding set in the folder `path`; reads its footer and headers, no vectors.

        Raises:
            UserError: the folder or one of its files is missing, damaged, or they contradict each other.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such embedding set (a folder that `moonrec export` writes)")
        metadata = _read_metadata(path / METADATA_FILE)
        batches = _map_batches(path / VECTORS_FILE, metadata["dimension"])
        rows = sum(batch.num_rows for batch in batches)
        if rows != metadata["rows"]:
            raise UserError(
                f"{path / VECTORS_FILE}: holds {rows:,} entries, {METADATA_FILE} says {metadata['rows']:,}; "
                f"{_MEND}"
            )
        return cls(path, metadata, batches)

    def __len__(self) -> int:
        return int(self._first_entry[-1])

    def __repr__(self) -> str:
        return f"EmbeddingSet({str(self.path)!r}, {len(self):,} x {self.dimension})"

    @cached_property
    def ids(self) -> pa.ChunkedArray:
        """The item ids in file order, as Arrow strings (N).

        Raises:
            UserError: the ids in the file are damaged (checked once, when they are first needed).
        """
        chunks = [batch.column(0) for batch in self._batches]
        for chunk in chunks:
            try:
                chunk.validate(full=True)
            except pa.ArrowException as error:
                raise UserError(f"{self.path / VECTORS_FILE}: damaged ids ({error}); {_MEND}") from error
        return pa.chunked_array(chunks, type=pa.string())

    def rows(self, ids: pa.Array | pa.ChunkedArray | Sequence[str]) -> NDArray[np.int64]:
        """Row of every id, int64 (n): 0 where the set does not know the id, else its entry number + 1."""
        return rows_of(ids, self.ids) + 1

    def vectors(self, rows: NDArray[np.integer[Any]] | Sequence[int]) -> NDArray[np.float16]:
        """Gather the vectors of `rows` (any shape), float16 (*rows.shape, D); row 0 gives zeros.

        Raises:
            ValueError: a row is negative or above the number of entries.
        """
        rows_array = np.asarray(rows, dtype=np.int64)
        flat = rows_array.ravel()
        if flat.size and (flat.min() < 0 or flat.max() > len(self)):
            raise ValueError(f"rows lie in [{flat.min()}, {flat.max()}], expected [0, {len(self)}]")
        order = np.argsort(flat, kind="stable")
        entries = flat[order] - 1
        gathered_ND = np.zeros((flat.size, self.dimension), dtype=np.float16)
        bounds = np.searchsorted(entries, self._first_entry)
        for number in np.flatnonzero(np.diff(bounds)):
            part = slice(bounds[number], bounds[number + 1])
            block_MD = _block(self._batches[number], self.dimension)
            gathered_ND[order[part]] = block_MD[entries[part] - self._first_entry[number]]
        return gathered_ND.reshape(*rows_array.shape, self.dimension)

    def blocks(self) -> Iterator[NDArray[np.float16]]:
        """Every vector in file order, as read-only float16 blocks (M, D) that share the mapped memory."""
        return (_block(batch, self.dimension) for batch in self._batches)

    def matrix(self) -> NDArray[np.float16]:
        """All vectors, float16 (N, D), no zero row; shares the mapped memory if one batch holds all."""
        blocks = list(self.blocks())
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    @staticmethod
    def coverage(rows: NDArray[np.integer[Any]]) -> float:
        """Share of `rows` that are known items (not row 0), in [0, 1]; 0.0 for no rows at all."""
        return float(np.count_nonzero(rows) / rows.size) if rows.size else 0.0


def _block(batch: pa.RecordBatch, dimension: int) -> NDArray[np.float16]:
    # The buffer rather than `.to_numpy()`: it ignores a null bitmap, and so cannot fall back to a copy.
    _, data = batch.column(1).values.buffers()
    return np.frombuffer(data, dtype="<f2", count=batch.num_rows * dimension).reshape(-1, dimension)


def _read_metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: missing, so {path.parent} is no embedding set; {_MEND}")
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); {_MEND}") from error
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: expected a JSON object; {_MEND}")
    for key, kind in (("dimension", int), ("rows", int), ("fingerprint", str)):
        if not isinstance(metadata.get(key), kind) or isinstance(metadata[key], bool):
            raise UserError(f"{path}: {key!r} is {metadata.get(key)!r}, expected {kind.__name__}; {_MEND}")
    if metadata.get("dtype") != "float16":
        raise UserError(f"{path}: 'dtype' is {metadata.get('dtype')!r}, expected 'float16'; {_MEND}")
    return metadata


def _map_batches(path: Path, dimension: int) -> list[pa.RecordBatch]:
    if not path.is_file():
        raise UserError(f"{path}: missing; {_MEND}")
    try:
        with pa.memory_map(str(path)) as mapped:
            file = mapped.read_buffer()
        reader = pa.ipc.open_file(pa.BufferReader(file))
        _check_schema(path, reader.schema, dimension)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for batch in batches:
            _check_batch(path, batch, file)
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged or not an Arrow IPC file ({error}); {_MEND}") from error
    return batches


def _check_schema(path: Path, schema: pa.Schema, dimension: int) -> None:
    vector = schema.field(1).type if len(schema) == 2 else pa.null()
    if (
        schema.names != ["item_id", "vector"]
        or schema.field(0).type != pa.string()
        or not pa.types.is_fixed_size_list(vector)
        or not pa.types.is_float16(vector.value_type)
        or vector.list_size < 1
    ):
        found = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise UserError(
            f"{path}: holds ({found}), expected "
            f"(item_id: string, vector: fixed_size_list<halffloat>); {_MEND}"
        )
    if vector.list_size != dimension:
        raise UserError(
            f"{path}: vectors have {vector.list_size} numbers, {METADATA_FILE} says {dimension}; {_MEND}"
        )


def _check_batch(path: Path, batch: pa.RecordBatch, file: pa.Buffer) -> None:
    """Cheap checks that make reading memory-safe; values are looked at only when they are used."""
    batch.validate()
    values = batch.column(1).values
    if batch.num_rows and (batch.column(0).null_count or batch.column(1).null_count or values.null_count):
        raise UserError(f"{path}: has null entries; {_MEND}")
    _, data = values.buffers()
    if batch.num_rows and not (file.address <= data.address <= file.address + file.size - data.size):
        raise UserError(f"{path}: is compressed, so it cannot be memory-mapped; {_MEND}")
