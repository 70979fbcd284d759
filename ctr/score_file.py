"""`test_scores.parquet`: the test rows with the model's probabilities, in their order.

Further seeds add their own column to the file that is there, so that a run which is killed between two seeds
has lost none of their scores.

Legend: R rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moonrec.atomic import atomic_file
from moonrec.tables import Table

SCORE, TOP3_COSINE = "score", "top3_cosine"
_COLUMNS = ("user_id", "item_id", "timestamp", "label")
_TIMES = pa.timestamp("us", tz="UTC")
_BATCH = 1 << 16


def seed_column(seed: int) -> str:
    """The column of one seed's probabilities."""
    return f"{SCORE}_{seed}"


def write_scores(path: Path, table: Table, columns_R: Mapping[str, NDArray[np.floating]]) -> None:
    """Write the rows of `table` beside `columns_R`, timestamps in microseconds since 1970 (UTC).

    Raises:
        UserError: the disk is full.
    """
    fields = [table.schema.field(name) for name in _COLUMNS]
    _write(path, [_with_time(field) for field in fields], table.batches(_COLUMNS, _BATCH), columns_R)


def add_scores(path: Path, name: str, score_R: NDArray[np.floating]) -> None:
    """Add a column to a file of `write_scores`, or replace it.

    Raises:
        UserError: the disk is full.
    """
    with pq.ParquetFile(path) as file:
        fields = [field for field in file.schema_arrow if field.name != name]
        kept = file.iter_batches(_BATCH, columns=[field.name for field in fields])
        _write(path, fields, kept, {name: score_R})


def _with_time(field: pa.Field) -> pa.Field:
    return field.with_type(_TIMES) if field.name == "timestamp" else field


def _write(
    path: Path,
    fields: list[pa.Field],
    batches: Iterable[pa.RecordBatch],
    columns_R: Mapping[str, NDArray[np.floating]],
) -> None:
    """Write the columns `fields` of the batches, and `columns_R` after them."""
    schema = pa.schema([*fields, *(pa.field(name, pa.float64()) for name in columns_R)])
    first = 0
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for batch in batches:
            last = first + len(batch)
            added = [pa.array(np.asarray(one_R[first:last], np.float64)) for one_R in columns_R.values()]
            kept = [batch[field.name].cast(field.type) for field in fields]
            writer.write_batch(pa.record_batch([*kept, *added], schema=schema))
            first = last
