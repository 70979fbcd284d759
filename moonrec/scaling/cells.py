"""Cells: one point under one seed, computed once, and found again by the next call.

A cell is a folder `CELLS/<point>/<number>`, in which whoever computes it may keep what lets it go on after a
kill, and beside it the record `<number>.json`, which says of what it was made and, when it is finished, what
was measured.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moonrec.atomic import write_json
from moonrec.errors import UserError
from moonrec.study.records import check_record, made_by, read_record, unreadable


@dataclass(frozen=True)
class Measured:
    """What a cell came to.

    Attributes:
        x: where it really stands on the axis.
        metrics: all numbers that were measured, by dotted name.
        seconds: that it took; None where an interrupted one went on.
        facts: what else a reader should know, by name.
    """

    x: float
    metrics: Mapping[str, float]
    seconds: float | None
    facts: Mapping[str, float] = field(default_factory=dict)


Compute = Callable[[int, int, Path], Measured]
"""Point, seed and the cell's own folder to what was measured."""


@dataclass(frozen=True)
class Cell:
    """A point and the number of the seed, from 0 on."""

    point: int
    number: int

    @property
    def seed(self) -> int:
        """Of everything random; another one in every cell, so that no two points share their luck.

        The same seed would give nested trainings at different points, whose errors go up and down together:
        intervals that take cells for independent would be too narrow.
        """
        digest = hashlib.sha256(f"{self.point}:{self.number}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class FinishedCell:
    """What a cell measured, and the versions that made it."""

    measured: Measured
    made_by: Mapping[str, Any]


class Cells:
    """All cells of a study.

    Args:
        folder: where they stand.
        options: all that decide a result but point and seed, as JSON has them.
        inputs: a fingerprint per input.
        compute: makes a cell.
    """

    def __init__(
        self, folder: Path, options: Mapping[str, Any], inputs: Mapping[str, str], compute: Compute
    ) -> None:
        self._folder = folder
        self._made_of = {"options": dict(options), "inputs": dict(inputs)}
        self._compute = compute
        self._made_by = made_by()

    def finished(self, cell: Cell) -> FinishedCell | None:
        """What a cell measured; None where it is still to be computed.

        Raises:
            UserError: the cell that stands there was made of other options or tables, or cannot be read.
        """
        record = self._record(cell)
        if record is None or "measured" not in record:
            return None
        return FinishedCell(_measured(self._path(cell), record["measured"]), record["made_by"])

    def run(self, cell: Cell) -> FinishedCell:
        """Compute a cell that is not finished.

        Raises:
            UserError: training or test refused; the message begins with the point.
        """
        path = self._path(cell)
        record = self._record(cell) or {**self._made_of, "seed": cell.seed, "made_by": self._made_by}
        # Before anything is computed, so that a folder is never taken for a cell of other options.
        write_json(path, record)
        try:
            measured = self._compute(cell.point, cell.seed, path.with_suffix(""))
        except UserError as error:
            raise UserError(f"point {cell.point}, seed {cell.seed}: {error}") from error
        write_json(path, record | {"measured": asdict(measured)})
        return FinishedCell(measured, record["made_by"])

    def _path(self, cell: Cell) -> Path:
        return self._folder / str(cell.point) / f"{cell.number}.json"

    def _record(self, cell: Cell) -> dict[str, Any] | None:
        path = self._path(cell)
        record = read_record(path)
        if record is not None:
            check_record(path, record, **self._made_of, stale=self._folder)
        return record


def _measured(path: Path, found: Any) -> Measured:
    """What a record holds, if it is what `run` writes.

    Raises:
        UserError: it is not.
    """
    try:
        measured = Measured(**found)
        numbers = [measured.x, *measured.metrics.values(), *measured.facts.values()]
        seconds = 0.0 if measured.seconds is None else measured.seconds
        fits = all(map(math.isfinite, [*numbers, seconds])) and measured.x > 0 and seconds >= 0
    except (TypeError, AttributeError, OverflowError) as error:
        raise unreadable(path) from error
    if not fits:
        raise unreadable(path)
    return measured
