"""Finished parts of an export: what `OUT.partial` holds until the embedding set is complete.

The catalogue is cut into parts of the same number of rows, whatever the number of processes; each part is one
Arrow file, written atomically. A killed export finds its finished parts again, if all that decides their
content is the same.

Shapes: N products of a part, E dimensions that are kept.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from encoders.encoding_stream import Cost
from encoders.products import BrokenImages
from moonrec.atomic import atomic_file, storage_errors
from moonrec.embedding_digests import DIGEST_BYTES
from moonrec.errors import UserError
from moonrec.runs import locked, partial_folder

EMPTY, ENCODED, COPIED = range(3)
_IDENTITY = "export-identity"
_NOTES = b"moonrec"


@dataclass
class Part:
    """The products of one part, in the order of the catalogue.

    Attributes:
        ids: item ids (N).
        digests: 16 bytes (N) that stand for id and content.
        broken: which products (N) have a picture that cannot be used.
        state: EMPTY, ENCODED or COPIED (N), uint8.
        vectors: float16 (N, E); zero where the state is EMPTY.
        unusable: the broken pictures, with reasons.
        cost: what encoding took.
    """

    ids: pa.StringArray
    digests: pa.FixedSizeBinaryArray
    broken: np.ndarray
    state: np.ndarray
    vectors: np.ndarray
    unusable: BrokenImages
    cost: Cost

    def covered(self) -> np.ndarray:
        """The rows that have a vector."""
        return np.flatnonzero(self.state != EMPTY)


class PartStore:
    """The parts of an export to `out`, on a disk that all of its processes see.

    Args:
        out: the embedding set to be.
        parts: the row ranges of the catalogue's parts.
        dim: the number E of dimensions.
    """

    def __init__(self, out: Path, parts: list[range], dim: int) -> None:
        self.out = out
        self.folder = partial_folder(out)
        self.parts = parts
        self._dim = dim

    @contextmanager
    def open(self, identity: str) -> Iterator[None]:
        """Hold the right to write `out`, in the main process; parts of the same `identity` are kept.

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
                    self.discard()
                raise
            self.discard()

    def discard(self) -> None:
        """Delete all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def finished(self) -> set[int]:
        """The numbers of the parts that are there."""
        return {int(path.stem) for path in self.folder.glob("[0-9]*.arrow")}

    def claims(self) -> Iterator[range]:
        """The parts that nobody has finished or claimed, each claimed for the caller when it is asked for.

        Raises:
            UserError: the folder is not there: `out` is on a disk that the main process does not see.
        """
        if not (self.folder / _IDENTITY).exists():
            raise UserError(f"{self.folder}: is not there; every process must see -o on one shared disk")
        finished = self.finished()
        for number, part in enumerate(self.parts):
            if number not in finished and self._claim(number):
                yield part

    def write(self, number: int, part: Part) -> None:
        """Write one part; it is there as a whole or not at all."""
        with atomic_file(self._path(number)) as temporary, pa.OSFile(str(temporary), "wb") as sink:
            notes = {"unusable": part.unusable.to_dict(), "cost": vars(part.cost)}
            schema = self._schema().with_metadata({_NOTES: json.dumps(notes).encode()})
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.vectors.ravel()), self._dim)
            columns = [part.ids, part.digests, pa.array(part.broken), pa.array(part.state), vectors]
            with pa.ipc.new_file(sink, schema) as file:
                file.write_batch(pa.record_batch(columns, schema=schema))

    def read(self, number: int) -> Part:
        """A finished part, mapped into memory."""
        table = pa.ipc.open_file(pa.memory_map(str(self._path(number)))).read_all()
        notes: dict[str, Any] = json.loads(table.schema.metadata[_NOTES])
        ids, digests, broken, state, vectors = (column.combine_chunks() for column in table.columns)
        unusable = notes["unusable"]
        return Part(
            ids=ids,
            digests=digests,
            broken=broken.to_numpy(zero_copy_only=False),
            state=state.to_numpy(),
            vectors=vectors.values.to_numpy().reshape(-1, self._dim),
            unusable=BrokenImages(unusable["count"], [(e["id"], e["reason"]) for e in unusable["examples"]]),
            cost=Cost(**notes["cost"]),
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.arrow"

    def _claim(self, number: int) -> bool:
        # Made by whoever is first; a rename or a lock would not tell who that was on every shared disk.
        with storage_errors(self.out):
            try:
                self._path(number).with_suffix(".claim").touch(exist_ok=False)
            except FileExistsError:
                return False
        return True

    def _keep_only(self, identity: str) -> None:
        mark = self.folder / _IDENTITY
        if self.folder.exists() and not mark.is_file() and any(self.folder.iterdir()):
            raise UserError(
                f"{self.folder}: is in the way and is not from an export; move it, or choose another output"
            )
        if mark.is_file() and mark.read_text() == identity:
            self._keep_readable()
            if finished := self.finished():
                done = f"{len(finished):,} of {len(self.parts):,} parts are there already; the export goes on"
                print(f"{self.folder}: {done}", file=sys.stderr, flush=True)
        else:
            if self.finished():
                told = "the parts there are of other options, inputs or versions; the export starts anew"
                print(f"warning: {self.folder}: {told}", file=sys.stderr, flush=True)
            self.discard()
        self.folder.mkdir(parents=True, exist_ok=True)
        for claim in self.folder.glob("*.claim"):
            claim.unlink()
        mark.write_text(identity)

    def _keep_readable(self) -> None:
        """A power cut can leave a file that was renamed before its content reached the disk."""
        for number in self.finished():
            good = False
            with suppress(pa.ArrowException, OSError, KeyError, ValueError, TypeError):
                good = len(self.read(number).ids) == len(self.parts[number])
            if not good:
                self._path(number).unlink()

    def _schema(self) -> pa.Schema:
        return pa.schema(
            [
                ("item_id", pa.string()),
                ("digest", pa.binary(DIGEST_BYTES)),
                ("broken", pa.bool_()),
                ("state", pa.uint8()),
                ("vector", pa.list_(pa.float16(), self._dim)),
            ]
        )
