"""A catalogue cut into parts of fixed size, read part by part in one pass.

Several processes share a catalogue by taking parts in turn. Each of them reads forward only: row groups in
which it has no part are skipped unread, and of the others only the rows of its parts become products. A part
is claimed when reading arrives at it, so that a slow process takes fewer of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from encoders.products import Product, iter_items
from moonrec.parquet_files import BATCH_BYTES, ParquetPart, open_file, told
from moonrec.tables import Table


def parts_of(rows: int, part_rows: int) -> list[range]:
    """The row ranges into which a catalogue of `rows` products is cut; the last one may be shorter."""
    return [range(start, min(rows, start + part_rows)) for start in range(0, rows, part_rows)]


class PartReader:
    """Reads the products of some parts of a catalogue.

    Args:
        items: the catalogue; its ids must have been checked to be unique.
        parts: ascending ranges of rows; the next one is asked for when the reader has come to the end of one.
    """

    def __init__(self, items: Table, parts: Iterable[range]) -> None:
        self._wanted = _Wanted(parts)
        self._rows = _PartsTable(items, self._wanted)

    def batches(self) -> Iterator[list[Product]]:
        """The products, in their order.

        Raises:
            UserError: a file is damaged, or a value may not stand there.
        """
        return iter_items(self._rows)

    def by_part(self, batches: Iterable[list[Product]]) -> Iterator[tuple[range, list[Product]]]:
        """What `batches` gave, however it was grouped since then, each batch with the part that it is of."""
        seen = 0
        for products in batches:
            while products:
                part, row = self._wanted.place_of(seen)
                room = part.stop - row
                yield part, products[:room]
                seen += len(products[:room])
                products = products[room:]


class _Wanted:
    """The part that is being read, and those that were; the next one is claimed when there is need."""

    def __init__(self, parts: Iterable[range]) -> None:
        self.parts = iter(parts)
        self._done = True
        self.taken: list[range] = []

    def before(self, stop: int) -> range | None:
        """The part at hand, or the next one, if it begins before the row `stop`."""
        if self._done:
            claimed = next(self.parts, None)
            if claimed is None:
                return None
            self.taken.append(claimed)
            self._done = False
        return self.taken[-1] if self.taken[-1].start < stop else None

    def within(self, start: int, stop: int) -> Iterator[range]:
        """The wanted pieces of the rows from `start` to `stop`; to be asked for in ascending order."""
        while (part := self.before(stop)) is not None:
            self._done = part.stop <= stop
            yield range(max(start, part.start), min(stop, part.stop))
            if not self._done:
                return

    def place_of(self, number: int) -> tuple[range, int]:
        """The part and the row of the catalogue of the `number`-th row that was read."""
        for part in self.taken:
            if number < len(part):
                return part, part.start + number
            number -= len(part)
        raise IndexError(number)


@dataclass(frozen=True)
class _PartsFile(ParquetPart):
    """One file of the catalogue, whose first row is row `first` of the catalogue, read where it is wanted."""

    first: int
    wanted: _Wanted

    def batches(self, columns: Sequence[str], batch_size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (first row, batch) of the wanted rows in file order."""
        size = max(1, min(batch_size, int(BATCH_BYTES / max(1.0, self._bytes_per_row(columns)))))
        start = self.first
        with told(self.path, "is damaged"), open_file(self.path) as file:
            for group in range(self.metadata.num_row_groups):
                stop = start + self.metadata.row_group(group).num_rows
                if self.wanted.before(stop) is not None:
                    yield from self._group(file, group, start, stop, columns, size)
                start = stop

    def _group(
        self, file: pq.ParquetFile, group: int, start: int, stop: int, columns: Sequence[str], size: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        for batch in file.iter_batches(batch_size=size, row_groups=[group], columns=list(columns)):
            for piece in self.wanted.within(start, start + batch.num_rows):
                shown = batch.select(columns)
                if len(piece) < batch.num_rows:
                    # Copied rather than sliced: children of a sliced map still hold all of its entries.
                    shown = shown.take(pa.array(np.arange(piece.start - start, piece.stop - start)))
                yield piece.start - self.first, shown
            start += batch.num_rows
            if self.wanted.before(stop) is None:
                return


class _PartsTable(Table):
    """The rows of the wanted parts as a table that knows where in the catalogue they stand."""

    def __init__(self, items: Table, wanted: _Wanted) -> None:
        starts = np.cumsum([0] + [part.rows for part in items.parts]).tolist()
        files: list[ParquetPart] = [
            _PartsFile(part.path, part.rows, part.schema, part.metadata, start, wanted)
            for part, start in zip(items.parts, starts, strict=False)
        ]
        super().__init__(items.path, items.spec, files, items.schema)
        self._items = items
        self._wanted = wanted
        self._is_unique = True  # of the whole catalogue this was looked at before

    def address(self, row: int) -> str:
        """Where the `row`-th of the rows read lies, for messages."""
        return self._items.address(self._wanted.place_of(row)[1])
