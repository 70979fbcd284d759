"""Finished parts of an augmented table: what was made for some rows of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from encoders.augment.counts import Counts
from encoders.catalogue_parts import parts_of
from encoders.part_store import PartFiles
from moonrec.table_spec import IMAGES_TYPE

TITLE_COLUMNS = {"title_enriched": pa.string(), "title_enriched_source": pa.string()}
IMAGE_COLUMNS = {"images_augmented": IMAGES_TYPE, "images_augmented_source": pa.list_(pa.string())}
_SHOWN = pa.list_(pa.struct([("bytes", pa.binary()), ("caption", pa.string()), ("stands", pa.bool_())]))
_SCHEMA = pa.schema({**TITLE_COLUMNS, **IMAGE_COLUMNS, "shown": _SHOWN})


@dataclass(frozen=True)
class Shown:
    """A picture of the contact sheet, or a line without one; `stands` is False for one that was dropped."""

    bytes: bytes | None
    caption: str
    stands: bool = True


@dataclass(frozen=True)
class AugmentedItem:
    """What was made for one item; `shown` is None for items that are not on the contact sheet."""

    title: str | None
    title_source: str
    images: Sequence[tuple[bytes, str]]
    shown: Sequence[Shown] | None = None


class AugmentedParts(PartFiles):
    """The parts of the augmented table `out`.

    Args:
        out: the table to be.
        rows: of the catalogue.
        part_rows: of each part but the last.
    """

    def __init__(self, out: Path, rows: int, part_rows: int) -> None:
        super().__init__(out, parts_of(rows, part_rows), "augment")
        self._part_rows = part_rows

    def write(self, part: range, items: Sequence[AugmentedItem], counts: Counts) -> None:
        """Write one part; it is there as a whole or not at all."""
        columns = [
            [item.title for item in items],
            [item.title_source for item in items],
            [[{"bytes": data, "path": None} for data, _ in item.images] for item in items],
            [[source for _, source in item.images] for item in items],
            [None if item.shown is None else [vars(one) for one in item.shown] for item in items],
        ]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
        batch = pa.record_batch(arrays, schema=_SCHEMA)
        self._write(part.start // self._part_rows, batch, counts.to_notes())

    def read(self, number: int) -> tuple[pa.RecordBatch, Counts]:
        """A finished part, mapped into memory, and what was counted while it was made."""
        batch, notes = self._read(number)
        return batch, Counts.from_notes(notes)
