"""Finished parts of a long job: what `OUT.partial` holds until the output is complete.

The catalogue is cut into parts of the same number of rows, whatever the number of processes; each part is one
Arrow file, written atomically (no Parquet, so that nobody who reads the folder around them takes them for a
table). A killed command finds its finished parts again, if all that decides their content is the same.
"""

from __future__ import annotations

import json
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from moonrec.atomic import atomic_file, storage_errors
from moonrec.errors import UserError
from moonrec.runs import locked, partial_folder

_NOTES = b"moonrec"


class PartFiles(ABC):
    """The parts of an output; what a part holds is said by those who derive from it.

    Args:
        out: the output to be, on a disk that all processes see.
        parts: the row ranges of the catalogue's parts.
        command: whose output it is, as `export`.
    """

    def __init__(self, out: Path, parts: list[range], command: str) -> None:
        self.out = out
        self.folder = partial_folder(out)
        self.parts = parts
        self._command = command
        self._mark = self.folder / f"{command}-identity"

    @abstractmethod
    def read(self, number: int) -> Any:
        """A finished part, mapped into memory.

        Raises:
            KeyError, TypeError, ValueError, OSError, pyarrow.ArrowException: it is damaged.
        """

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

    def missing(self) -> list[range]:
        """The parts that are still to be made, in ascending order."""
        finished = self.finished()
        return [part for number, part in enumerate(self.parts) if number not in finished]

    def claims(self) -> Iterator[range]:
        """The parts that nobody has finished or claimed, each claimed for the caller when it is asked for.

        Raises:
            UserError: the folder is not there: `out` is on a disk that the main process does not see.
        """
        if not self._mark.exists():
            raise UserError(f"{self.folder}: is not there; every process must see -o on one shared disk")
        finished = self.finished()
        for number, part in enumerate(self.parts):
            if number not in finished and self._claim(number):
                yield part

    def _write(self, number: int, batch: pa.RecordBatch, notes: Mapping[str, Any]) -> None:
        """Write one part and what is to be noted of it; it is there as a whole or not at all."""
        batch = batch.replace_schema_metadata({_NOTES: json.dumps(notes).encode()})
        with (
            atomic_file(self._path(number)) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, batch.schema) as file,
        ):
            file.write_batch(batch)

    def _read(self, number: int) -> tuple[pa.RecordBatch, dict[str, Any]]:
        """A finished part, mapped into memory, and its notes."""
        with pa.ipc.open_file(pa.memory_map(str(self._path(number)))) as file:
            return file.get_batch(0), json.loads(file.schema.metadata[_NOTES])

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
        if self.folder.exists() and not self._mark.is_file() and any(self.folder.iterdir()):
            raise UserError(
                f"{self.folder}: is in the way and is not from `moonrec {self._command}`; move it, or choose "
                "another output"
            )
        if self._mark.is_file() and self._mark.read_text() == identity:
            self._keep_readable()
            if finished := self.finished():
                done = f"{len(finished):,} of {len(self.parts):,} parts are there already"
                print(f"{self.folder}: {done}; {self._command} goes on", file=sys.stderr, flush=True)
        else:
            if self.finished():
                told = (
                    f"the parts there are of other options, inputs or versions; {self._command} starts anew"
                )
                print(f"warning: {self.folder}: {told}", file=sys.stderr, flush=True)
            self.discard()
        self.folder.mkdir(parents=True, exist_ok=True)
        for claim in self.folder.glob("*.claim"):
            claim.unlink()
        self._mark.write_text(identity)

    def _keep_readable(self) -> None:
        """A power cut can leave a file that was renamed before its content reached the disk."""
        for number in self.finished():
            good = False
            with suppress(pa.ArrowException, OSError, KeyError, ValueError, TypeError):
                self.read(number)
                good = self._read(number)[0].num_rows == len(self.parts[number])
            if not good:
                self._path(number).unlink()
