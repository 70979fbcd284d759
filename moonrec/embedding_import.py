"""Anybody's vectors, out of any Parquet table of (`item_id`, list of floats), as an embedding set.

Streams file by file; each refusal names the file, its row and the item.

Shapes: N rows of one batch, D embedding width.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moonrec.embedding_set import EmbeddingSet
from moonrec.embedding_writer import BadEntry, EmbeddingSetWriter
from moonrec.errors import UserError
from moonrec.parquet_files import open_part, parquet_paths
from moonrec.table_schema import missing_column

_BATCH_ROWS = 16_384  # 16 MB of vectors at 128 x float64. Ours.


def import_embeddings(
    source: str | Path,
    destination: str | Path,
    *,
    normalize: bool = False,
    id_column: str = "item_id",
    vector_column: str | None = None,
) -> EmbeddingSet:
    """Write the vectors of the Parquet table `source` as an embedding set and open it.

    Args:
        source: a Parquet file, or a folder of them.
        destination: the embedding set's folder; an embedding set that is there is replaced.
        normalize: divide every vector by its length; without it, other lengths than 1 are refused.
        id_column: the column of ids (strings).
        vector_column: the column of vectors (list, large list or fixed-size list of float16, 32 or 64); by
            default the only such column.

    Raises:
        UserError: the table is missing, empty or not Parquet; a column is missing or of another type; an id
            is null, empty or repeated; a vector is null, holds nulls, NaN or infinities, is zero, or has
            another width than the first; or it is not of unit length and `normalize` is off.
    """
    source = Path(source)
    parts = _parts(parquet_paths(source), id_column, vector_column)
    first = next(parts, None)
    if first is None:
        raise UserError(f"{source}: has no rows, expected at least one embedding")
    starts: list[_Start] = []
    entries = 0
    try:
        with EmbeddingSetWriter(destination, first.vectors_ND.shape[1], {"source": str(source)}) as writer:
            for part in chain([first], parts):
                starts.append(_Start(entries, part.file, part.first_row))
                entries += len(part.ids)
                writer.write(part.ids, _normalized(part.vectors_ND) if normalize else part.vectors_ND)
    except BadEntry as bad:
        earlier = "" if bad.earlier is None else f" (first: {_place(starts, bad.earlier)})"
        raise UserError(f"{_place(starts, bad.entry)}: {bad.problem}{earlier}") from bad
    return EmbeddingSet.open(destination)


@dataclass(frozen=True)
class _Part:
    """Some rows of one file, ready for the writer."""

    file: Path
    first_row: int
    ids: pa.Array
    vectors_ND: NDArray[Any]


@dataclass(frozen=True)
class _Start:
    """Which row of which file the written entry `entry` came from; the following ones follow it."""

    entry: int
    file: Path
    row: int


def _place(starts: list[_Start], entry: int) -> str:
    start = starts[bisect_right(starts, entry, key=lambda start: start.entry) - 1]
    return f"{start.file}: row {start.row + entry - start.entry}"


def _parts(files: list[Path], id_column: str, vector_column: str | None) -> Iterator[_Part]:
    dimension = None
    for path in files:
        file = open_part(path)
        _check_id_column(path, file.schema, id_column)
        vector_column = _vector_column(path, file.schema, vector_column)
        for first_row, batch in file.batches([id_column, vector_column], _BATCH_ROWS):
            if batch.num_rows:
                part = _part(path, first_row, batch, dimension)
                dimension = part.vectors_ND.shape[1]
                yield part


def _check_id_column(file: Path, schema: pa.Schema, name: str) -> None:
    if name not in schema.names:
        raise UserError(missing_column(file, name, schema.names))
    kind = schema.field(name).type
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(text) or pa.types.is_large_string(text)):
        raise UserError(f"{file}: column {name!r} is {kind}, expected string (ids are no numbers); cast it")


def _vector_column(file: Path, schema: pa.Schema, name: str | None) -> str:
    """The column of vectors in `schema`: the one called `name`, or the only one that is a list of floats."""
    vectors = [field.name for field in schema if _is_vector(field.type)]
    if name is None:
        if len(vectors) == 1:
            return vectors[0]
        found = ", ".join(f"{field.name}: {field.type}" for field in schema)
        wanted = "one column that is a list of floats" if not vectors else "the name of one column of vectors"
        raise UserError(f"{file}: expected {wanted}, found ({found})")
    if name not in schema.names:
        raise UserError(missing_column(file, name, schema.names))
    if name not in vectors:
        raise UserError(f"{file}: column {name!r} is {schema.field(name).type}, expected a list of floats")
    return name


def _is_vector(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and pa.types.is_floating(kind.value_type)


def _part(file: Path, first_row: int, batch: pa.RecordBatch, dimension: int | None) -> _Part:
    """The batch as ids and a matrix (N, D); `dimension` is the width that earlier rows had, if any."""

    def refuse(row: int, problem: str) -> UserError:
        return UserError(f"{file}: row {first_row + row}: item {ids[row].as_py()!r} {problem}")

    ids = _text(file, first_row, batch.column(0))
    lists = batch.column(1)
    if lists.null_count:
        raise refuse(int(np.flatnonzero(lists.is_null())[0]), "has no vector (null)")
    widths = pc.list_value_length(lists).to_numpy()
    width = dimension or int(widths[0])
    if width == 0:
        raise refuse(0, "has an empty vector")
    if (other := np.flatnonzero(widths != width)).size:
        raise refuse(int(other[0]), f"has {widths[other[0]]} numbers, expected {width} as in the rows before")
    values = lists.flatten()
    if values.null_count:
        raise refuse(int(np.flatnonzero(values.is_null())[0]) // width, "has a null in its vector")
    return _Part(file, first_row, ids, values.to_numpy(zero_copy_only=False).reshape(-1, width))


def _text(file: Path, first_row: int, ids: pa.Array) -> pa.Array:
    """The ids as strings, checked to be UTF-8: Parquet readers take the bytes as they come."""
    ids = ids.cast(pa.string())
    try:
        ids.validate(full=True)
    except pa.ArrowInvalid as error:
        row = next(row for row, raw in enumerate(ids.cast(pa.binary()).to_pylist()) if not _is_utf8(raw))
        raise UserError(f"{file}: row {first_row + row}: the id is not UTF-8 text") from error
    return ids


def _is_utf8(raw: bytes | None) -> bool:
    try:
        (raw or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _normalized(vectors_ND: NDArray[Any]) -> NDArray[Any]:
    """Unit vectors of the same directions; zero and non-finite ones stay, for the writer to refuse."""
    vectors_ND = vectors_ND.astype(np.float64)
    largest_N1 = np.abs(vectors_ND).max(axis=1, keepdims=True)
    usable_N1 = np.isfinite(largest_N1) & (largest_N1 > 0)
    # By the largest number first: squares of very small or very large ones leave the range of floats.
    scaled_ND = np.divide(vectors_ND, largest_N1, out=vectors_ND, where=usable_N1)
    length_N1 = np.sqrt(np.einsum("nd,nd->n", scaled_ND, scaled_ND))[:, None]
    return np.divide(scaled_ND, length_N1, out=scaled_ND, where=usable_N1)
