"""The augmented table: the catalogue as it is, with what was made for each item in columns beside it.

Shapes: N items of a batch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from encoders.augment.augmented_parts import AugmentedParts
from encoders.regions.open import boxes_path
from moonrec.atomic import atomic_file
from moonrec.errors import UserError
from moonrec.images import BrokenImage, image_bytes
from moonrec.progress import progress
from moonrec.table_spec import Kind
from moonrec.tables import Table

# A row group each, as far as pictures let so many rows into one batch.
_BATCH_ROWS = 1024


def write_table(items: Table, parts: AugmentedParts, columns: dict[str, pa.DataType]) -> None:
    """Write `parts.out`: all columns of `items`, those in `columns` taken from the parts; atomically.

    Pictures that the catalogue names by a path are found from its folder only. Where the output lies in
    another folder, their bytes are put beside their paths.

    Raises:
        UserError: the disk is full, the place cannot be written, or a value of the catalogue may not stand.
    """
    kept = [name for name in items.column_names if name not in columns]
    schema = pa.schema([*(items.schema.field(name) for name in kept), *columns.items()])
    is_beside = parts.out.resolve().parent == items.folder.resolve()
    made = _Rows(parts, list(columns))
    with atomic_file(parts.out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        batches = items.batches(kept, _BATCH_ROWS)
        first = 0
        for batch in progress(batches, "writing", -(-items.count_rows() // _BATCH_ROWS)):
            old = [batch[name] if is_beside else _portable(batch[name], items, name, first) for name in kept]
            writer.write_batch(pa.record_batch([*old, *made.take(batch.num_rows)], schema=schema))
            first += batch.num_rows


def carry_boxes(items: Path, out: Path, cache: Path | None) -> None:
    """Copy the core regions that were found for the catalogue, so that those of an MLLM hold for `out`, too.

    Boxes belong to pictures and titles, which are the same in both. Where `out` has boxes, they stay.
    """
    old, new = boxes_path(items, cache, tell=False), boxes_path(out, cache, tell=False)
    if old is None or new is None or not old.is_file() or new.exists():
        return
    with atomic_file(new) as temporary:
        shutil.copyfile(old, temporary)


class _Rows:
    """The rows of all parts, one after the other; a batch of the catalogue may lie in several."""

    def __init__(self, parts: AugmentedParts, names: Sequence[str]) -> None:
        self._batches = self._of(parts, names)
        self._left = next(self._batches)

    @staticmethod
    def _of(parts: AugmentedParts, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for number in range(len(parts.parts)):
            yield parts.read(number)[0].select(names)

    def take(self, count: int) -> list[pa.Array]:
        """The columns of the next `count` rows."""
        pieces = []
        while count:
            if not self._left.num_rows:
                self._left = next(self._batches)
            pieces.append(self._left.slice(0, count))
            self._left = self._left.slice(pieces[-1].num_rows)
            count -= pieces[-1].num_rows
        return [
            pa.concat_arrays(columns) for columns in zip(*(piece.columns for piece in pieces), strict=True)
        ]


def _portable(column: pa.Array, items: Table, name: str, first: int) -> pa.Array:
    """The column, whose rows are those from `first`, with the bytes of pictures that are named by path."""
    kind = items.spec.column(name).kind
    if kind not in (Kind.IMAGE, Kind.IMAGES):
        return column
    rows: list[Any] = []
    for row, value in enumerate(column.to_pylist(), first):
        try:
            if isinstance(value, list):
                rows.append([_filled(cell, items.folder) for cell in value])
            else:
                rows.append(_filled(value, items.folder))
        except UserError as error:
            raise UserError(f"{items.address(row)}: column {name!r}: {error}") from error
    return pa.array(rows, column.type)


def _filled(cell: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    if cell is None or cell["bytes"] is not None or cell["path"] is None:
        return cell
    try:
        return {"bytes": image_bytes(cell, folder), "path": cell["path"]}
    except BrokenImage:
        return cell
