"""A few rows of a large table, without reading the rest of it.

Parquet is read by row groups: only those that hold a wanted row are opened, and each only as far as its last
wanted row. What a table offers (checked values, addresses for messages) is offered for its few rows too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from moonrec.parquet_files import BATCH_BYTES, ParquetPart, open_file, told
from moonrec.tables import Table


class FewRows(Table):
    """Some rows of another table, in its order; made by `only_rows`."""

    def __init__(
        self, table: Table, rows: Sequence[int], parts: list[ParquetPart], schema: pa.Schema
    ) -> None:
        super().__init__(table.path, table.spec, parts, schema)
        self._table = table
        self._rows = rows
        # Whether an id occurs twice is a question about the whole table, which its reader has asked.
        self._is_unique = True

    def address(self, row: int) -> str:
        """Where a row, counted among the few, lies in the whole table."""
        return self._table.address(self._rows[row])


@dataclass(frozen=True)
class _FewRowsPart(ParquetPart):
    """Some rows of one file, ascending."""

    chosen: tuple[int, ...]

    def batches(self, columns: Sequence[str], batch_size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (its row in the file, the row) for every chosen row."""
        size = max(1, min(batch_size, int(BATCH_BYTES / max(1.0, self._bytes_per_row(columns)))))
        with told(self.path, "is damaged"), open_file(self.path) as file:
            for group, first, wanted in self._groups():
                waiting = list(reversed(wanted))
                for batch in file.iter_batches(batch_size=size, row_groups=[group], columns=list(columns)):
                    while waiting and waiting[-1] < first + batch.num_rows:
                        row = waiting.pop()
                        yield row, batch.select(columns).slice(row - first, 1)
                    if not waiting:
                        break
                    first += batch.num_rows

    def bytes_read(self, columns: Collection[str]) -> float:
        """About how many bytes, as they lie in memory, are decoded for the chosen rows."""
        total = 0.0
        for group, first, wanted in self._groups():
            row_group = self.metadata.row_group(group)
            chunks = (row_group.column(i) for i in range(row_group.num_columns))
            size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] in columns)
            total += size * (wanted[-1] + 1 - first) / row_group.num_rows
        return total

    def _groups(self) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Number and first row of every row group that holds chosen rows, and these."""
        sizes = [self.metadata.row_group(group).num_rows for group in range(self.metadata.num_row_groups)]
        bounds = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        places = np.searchsorted(self.chosen, bounds)
        for group in np.flatnonzero(np.diff(places)).tolist():
            yield group, int(bounds[group]), self.chosen[places[group] : places[group + 1]]


def only_rows(
    table: Table, rows: np.ndarray, costly: Collection[str] = (), most_bytes: float = float("inf")
) -> FewRows:
    """The table with only these rows.

    Args:
        table: the whole table.
        rows: int64, 0-based, ascending, each once, of the table.
        costly: columns that are left out of all rows where reading them would go beyond `most_bytes`, as
            where a million pictures lie in one row group.
        most_bytes: how many bytes of the `costly` columns may be read.

    Raises:
        IndexError: a row that the table does not have.
    """
    if len(rows) and not 0 <= rows[0] <= rows[-1] < table.count_rows():
        raise IndexError(f"rows {rows[0]} to {rows[-1]} of a table of {table.count_rows()}")
    bounds = np.concatenate([[0], np.cumsum([part.rows for part in table.parts], dtype=np.int64)])
    places = np.searchsorted(rows, bounds)
    parts = [
        _FewRowsPart(
            part.path, end - start, part.schema, part.metadata, tuple((rows[start:end] - first).tolist())
        )
        for part, first, start, end in zip(
            table.parts, bounds[:-1], places[:-1].tolist(), places[1:].tolist(), strict=True
        )
    ]
    schema = table.schema
    if sum(part.bytes_read(costly) for part in parts) > most_bytes:
        schema = pa.schema([field for field in schema if field.name not in costly])
    return FewRows(table, rows.tolist(), list(parts), schema)
