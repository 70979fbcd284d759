"""Cells: the parts that an exchange rate is made of, each computed once and found again by the next call.

A cell is `CELLS/<version>/<part>` (what a command wrote) and the record `<part>.json`, which says of what it
was made, how long it took, and whether it is finished. What a killed cell has left is its own command's to go
on with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moonrec.atomic import write_json
from moonrec.embedding_writer import METADATA_FILE, VECTORS_FILE
from moonrec.errors import UserError
from moonrec.study.records import check_record, made_by, read_record, version_notes

Part = Literal["vectors", "evaluation", "judge"]
Pace = tuple[Part, bool]
"""A part, and whether the vectors that it begins with are there: nothing has to be encoded then."""
# What rates are read from: where one of them was lost, the cell has to be made again.
_FILES: Mapping[Part, Sequence[str]] = {
    "vectors": (METADATA_FILE, VECTORS_FILE),
    "evaluation": ("metrics.json", "queries.parquet", "labels.parquet", "agreement.parquet"),
    "judge": ("metrics.json", "test_scores.parquet"),
}


@dataclass(frozen=True)
class Cell:
    """One part of one version.

    Attributes:
        version: the folder of the version's cells.
        part: what is computed.
        options: all that decide its result.
        inputs: a fingerprint per input.
        ready: whether the version is an embedding set.
    """

    version: str
    part: Part
    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    ready: bool = False

    @property
    def pace(self) -> Pace:
        """What cells take as long as this one."""
        return self.part, self.ready and self.part != "judge"


class Cells:
    """The cells in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made_by = made_by()

    def output(self, cell: Cell) -> Path:
        """Where a cell's result stands."""
        return self._folder / cell.version / cell.part

    def is_finished(self, cell: Cell) -> bool:
        """Whether the cell is there, with all files that are read from it.

        Raises:
            UserError: a finished one was made of other options or inputs.
        """
        return self._finished(cell) is not None

    def seconds(self, cells: Iterable[Cell]) -> dict[Pace, list[float]]:
        """What finished cells took, by kind; one that went on after a kill tells nothing."""
        found: dict[Pace, list[float]] = {}
        for cell in cells:
            record = self._finished(cell)
            if record is not None and record["seconds"] is not None:
                found.setdefault(cell.pace, []).append(float(record["seconds"]))
        return found

    def notes(self, cells: Iterable[Cell]) -> list[str]:
        """A warning where these finished cells were not all made by the same versions."""
        records = (self._finished(cell) for cell in cells)
        return version_notes(record["made_by"] for record in records if record is not None)

    def run(self, cell: Cell, compute: Callable[[Path], Any]) -> None:
        """Compute a cell that is not finished.

        Raises:
            UserError: the computation refused; its message begins with the version's name.
        """
        path = self._record_path(cell)
        begun = path.exists()
        record = {
            "options": dict(cell.options),
            "inputs": dict(cell.inputs),
            "made_by": self._made_by,
            "finished": False,
        }
        write_json(path, record)
        started = time.monotonic()
        try:
            compute(self.output(cell))
        except UserError as error:
            raise UserError(f"{cell.version}, {cell.part}: {error}") from error
        seconds = None if begun else time.monotonic() - started
        write_json(path, record | {"finished": True, "seconds": seconds})

    def _record_path(self, cell: Cell) -> Path:
        return self._folder / cell.version / f"{cell.part}.json"

    def _finished(self, cell: Cell) -> dict[str, Any] | None:
        path = self._record_path(cell)
        record = read_record(path)
        if record is None or not record.get("finished"):
            return None
        if not all((self.output(cell) / name).is_file() for name in _FILES[cell.part]):
            return None
        check_record(path, record, cell.options, cell.inputs, stale=path.parent)
        return record
