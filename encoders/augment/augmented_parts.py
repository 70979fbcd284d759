"""Finished parts of an augmented table: what `OUT.partial` holds until all items have been looked at.

A part holds what was made for some rows of the catalogue, one Arrow file each (no Parquet, so that nobody who
reads the folder around them takes them for a table), written atomically. A killed command finds its finished
parts again, if all that decides their content is the same.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from encoders.augment.counts import Counts
from encoders.catalogue_parts import parts_of
from moonrec.atomic import atomic_file, storage_errors
from moonrec.errors import UserError
from moonrec.runs import locked, partial_folder
from moonrec.table_spec import IMAGES_TYPE

TITLE_COLUMNS = {"title_enriched": pa.string(), "title_enriched_source": pa.string()}
IMAGE_COLUMNS = {"images_augmented": IMAGES_TYPE, "images_augmented_source": pa.list_(pa.string())}
_SHOWN = pa.list_(pa.struct([("bytes", pa.binary()), ("caption", pa.string()), ("stands", pa.bool_())]))
_IDENTITY = "augment-identity"
_NOTES = b"moonrec"


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


class AugmentedParts:
    """The parts of the augmented table `out`.

    Args:
        out: the table to be.
        rows: of the catalogue.
        part_rows: of each part but the last.
    """

    def __init__(self, out: Path, rows: int, part_rows: int) -> None:
        self.out = out
        self.folder = partial_folder(out)
        self.parts = parts_of(rows, part_rows)
        self._part_rows = part_rows

    @contextmanager
    def open(self, identity: str) -> Iterator[None]:
        """Hold the right to write `out`; parts of the same `identity` are kept.

        When the block ends without an error the parts are gone; after an error those that are finished stay.

        Raises:
            UserError: another process is writing `out`, or a folder that is not ours stands in the way.
        """
        with storage_errors(self.out), locked(self.out):
            self._keep_only(identity)
            try:
                yield
            except BaseException:
                if not self.finished():
                    self._discard()
                raise
            self._discard()

    def finished(self) -> set[int]:
        """The numbers of the parts that are there."""
        return {int(path.stem) for path in self.folder.glob("[0-9]*.arrow")}

    def missing(self) -> list[range]:
        """The parts that are still to be made, in ascending order."""
        finished = self.finished()
        return [part for number, part in enumerate(self.parts) if number not in finished]

    def write(self, part: range, items: Sequence[AugmentedItem], counts: Counts) -> None:
        """Write one part; it is there as a whole or not at all."""
        schema = _SCHEMA.with_metadata({_NOTES: json.dumps(counts.to_notes()).encode()})
        columns = [
            [item.title for item in items],
            [item.title_source for item in items],
            [[{"bytes": data, "path": None} for data, _ in item.images] for item in items],
            [[source for _, source in item.images] for item in items],
            [None if item.shown is None else [vars(one) for one in item.shown] for item in items],
        ]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        path = self._path(part.start // self._part_rows)
        with atomic_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
            file = pa.ipc.new_file(sink, schema)
            file.write_batch(pa.record_batch(arrays, schema=schema))
            file.close()

    def read(self, number: int) -> tuple[pa.RecordBatch, Counts]:
        """A finished part, mapped into memory, and what was counted while it was made."""
        with pa.ipc.open_file(pa.memory_map(str(self._path(number)))) as file:
            batch = file.get_batch(0)
            return batch, Counts.from_notes(json.loads(file.schema.metadata[_NOTES]))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.arrow"

    def _discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep_only(self, identity: str) -> None:
        mark = self.folder / _IDENTITY
        if self.folder.exists() and not mark.is_file() and any(self.folder.iterdir()):
            raise UserError(
                f"{self.folder}: is in the way and is not from `moonrec augment`; move it, or choose another "
                "output"
            )
        if mark.is_file() and mark.read_text() == identity:
            self._keep_readable()
            if finished := self.finished():
                done = (
                    f"{len(finished):,} of {len(self.parts):,} parts are there already; the command goes on"
                )
                print(f"{self.folder}: {done}", file=sys.stderr, flush=True)
        else:
            if self.finished():
                told = "the parts there are of other options, inputs or versions; all are made anew"
                print(f"warning: {self.folder}: {told}", file=sys.stderr, flush=True)
            self._discard()
        self.folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(identity)

    def _keep_readable(self) -> None:
        """A power cut can leave a file that was renamed before its content reached the disk."""
        for number in self.finished():
            good = False
            with suppress(pa.ArrowException, OSError, KeyError, ValueError, TypeError):
                good = self.read(number)[0].num_rows == len(self.parts[number])
            if not good:
                self._path(number).unlink()


_SCHEMA = pa.schema({**TITLE_COLUMNS, **IMAGE_COLUMNS, "shown": _SHOWN})
