"""Cells: one row under one seed, trained and tested once, and found again by the next call.

A cell is `CELLS/<row>/<seed>` (the trained encoder), `<seed>-test` (its test) and the record `<seed>.json`,
which says of what it was made and, when it is finished, what was measured. Training goes on where it was
killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonrec.ablation.metrics import cell_metrics
from moonrec.atomic import write_json
from moonrec.errors import UserError
from moonrec.runs import partial_folder
from moonrec.study.records import check_record, made_by, read_record


@dataclass(frozen=True)
class Trained:
    """What is told of a training.

    Attributes:
        seconds: that it took; None where an interrupted one went on.
        idle_rounds: those of which no epoch beat the start, so that they changed nothing.
    """

    seconds: float | None
    idle_rounds: tuple[str, ...] = ()


Train = Callable[[Mapping[str, str], int, Path], Trained]
"""Flags, seed and output folder to what is told of the training."""
Test = Callable[[Path, Path], Mapping[str, Any]]
"""The trained encoder's folder and an output folder to the metrics of `moonrec evaluate`."""


@dataclass(frozen=True)
class Cell:
    """What one cell is made of.

    Attributes:
        row: the folder of the row's cells.
        seed: of everything random.
        flags: of the training, as text.
        options: all that decide its result.
    """

    row: str
    seed: int
    flags: Mapping[str, str]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class FinishedCell:
    """What a cell measured, its rounds that changed nothing, and the versions that made it."""

    metrics: dict[str, float]
    idle_rounds: tuple[str, ...]
    made_by: Mapping[str, Any]


class Cells:
    """All cells of an ablation.

    Args:
        folder: where they stand.
        inputs: a fingerprint per input table of training and test.
        train: makes an encoder.
        test: measures it.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, str], train: Train, test: Test) -> None:
        self._folder = folder
        self._inputs = dict(inputs)
        self._train = train
        self._test = test
        self._made_by = made_by()

    def unfinished(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those that are still to be computed.

        Raises:
            UserError: a cell that stands there was made of other options or tables.
        """
        return [cell for cell in cells if "metrics" not in (self._record(cell) or {})]

    def result(self, cell: Cell) -> FinishedCell:
        """What a finished cell measured."""
        record = self._record(cell) or {}
        return FinishedCell(dict(record["metrics"]), tuple(record["idle_rounds"]), record["made_by"])

    def run(self, cell: Cell) -> None:
        """Train and test a cell that is not finished.

        Raises:
            UserError: training or test refused; its message begins with the row's name.
        """
        path = self._path(cell)
        record = self._record(cell) or {
            "options": {**cell.options, "seed": cell.seed},
            "inputs": self._inputs,
            "made_by": self._made_by,
        }
        encoder, tested = _encoder_of(path), path.with_name(f"{path.stem}-test")
        # Before training, so that a folder is never taken for a cell of other options.
        write_json(path, record)
        try:
            if "trained" not in record:
                record |= {"trained": True, **asdict(self._train(cell.flags, cell.seed, encoder))}
                write_json(path, record)
            metrics = self._test(encoder, tested)
        except UserError as error:
            raise UserError(f"row {cell.row}, seed {cell.seed}: {error}") from error
        write_json(path, record | {"metrics": cell_metrics(metrics, record["seconds"])})

    def _path(self, cell: Cell) -> Path:
        return self._folder / cell.row / f"{cell.seed}.json"

    def _record(self, cell: Cell) -> dict[str, Any] | None:
        path = self._path(cell)
        record = read_record(path)
        if record is None:
            return None
        encoder = _encoder_of(path)
        if "trained" not in record and not encoder.exists() and not partial_folder(encoder).exists():
            # Of a training that never began, or left nothing: it says nothing about what stands here.
            return None
        options = {**cell.options, "seed": cell.seed}
        check_record(path, record, options, self._inputs, stale=path.parent)
        return record


def _encoder_of(record: Path) -> Path:
    return record.with_suffix("")
