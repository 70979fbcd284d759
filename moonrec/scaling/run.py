"""One scaling study from plan to report.

The output folder grows cell by cell; tables, plots and report are written when all cells are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonrec.errors import UserError
from moonrec.progress import duration
from moonrec.scaling.axis import Axis
from moonrec.scaling.cells import Cell, Cells, Compute, FinishedCell
from moonrec.scaling.results import check_metrics, curves_of, points_of
from moonrec.scaling.write import check_places, write_results
from moonrec.study.folder import StudyFolder
from moonrec.study.records import version_notes


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        out: the folder to write or to go on with.
        axis: what is varied.
        points: as asked for, increasing.
        seeds: cells per point.
        metrics: that are fitted.
        options: all that decide a cell but its point and seed, as JSON has them.
        inputs: a fingerprint per input.
        config: the command's options, for `config.yaml`.
        notes: what a reader must know of the data.
        work: about how much there is to do at a point, in units of `unit_seconds`.
        unit_seconds: a first guess at how long a unit takes, until a cell is there.
        plan_only: tell the plan and stop.
    """

    out: Path
    axis: Axis
    points: Sequence[int]
    seeds: int
    metrics: Sequence[str]
    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    config: Mapping[str, Any]
    notes: Sequence[str]
    work: Callable[[int], float]
    unit_seconds: float
    plan_only: bool = False


def run_scaling(request: Request, compute: Compute) -> dict[str, Any]:
    """Compute the cells that are missing and write the results; returns what `metrics.json` holds.

    Raises:
        UserError: no seeds, cells of other options or inputs, a cell that fails, a metric that was not
            measured, or an output that cannot be written.
    """
    if request.seeds < 1:
        raise UserError(f"--seeds {request.seeds}: expected at least 1")
    folder = StudyFolder(request.out, "scaling")
    check_places(request.out, request.metrics)
    cells = Cells(folder.cells, request.options, request.inputs, compute)
    every = [Cell(point, number) for number in range(request.seeds) for point in request.points]
    if request.plan_only:
        return _told(folder, request, every, _finished(request, cells, every))
    with folder.writing():
        finished = _finished(request, cells, every)
        _told(folder, request, every, finished)
        missing = [cell for cell in every if cell not in finished]

        def run(cell: Cell) -> None:
            finished[cell] = cells.run(cell)
            check_metrics(request.metrics, cell.point, finished[cell].measured)

        folder.compute(
            missing,
            title=lambda cell: f"{cell.point:,} {request.axis.points_are}, seed {cell.number}",
            run=run,
            seconds=lambda left: _estimate(request, left, finished),
        )
        metrics = _write(request, every, finished)
        folder.finish(request.config, request.inputs, seeds=request.seeds, cells_computed=len(missing))
    return metrics


def _finished(request: Request, cells: Cells, every: Sequence[Cell]) -> dict[Cell, FinishedCell]:
    found = {cell: done for cell in every if (done := cells.finished(cell))}
    for cell, done in found.items():
        check_metrics(request.metrics, cell.point, done.measured)
    return found


def _told(
    folder: StudyFolder, request: Request, every: Sequence[Cell], finished: Mapping[Cell, FinishedCell]
) -> dict[str, Any]:
    missing = [cell for cell in every if cell not in finished]
    seconds = _estimate(request, missing, finished)
    basis = "from the finished cells" if _timed(finished) else "a guess until the first cell is there"
    folder.say(
        f"{request.axis.name}: {len(request.points)} points × {request.seeds} seeds: {len(every)} cells, "
        f"{len(missing)} of them to compute"
    )
    for point in request.points:
        to_do = [cell for cell in missing if cell.point == point]
        own = f"about {duration(_estimate(request, to_do, finished))}" if to_do else "finished"
        folder.say(f"  {point:,} {request.axis.points_are}: {own}")
    if missing:
        folder.say(f"about {duration(seconds)} in all ({basis})")
    lines = [
        f"{len(every)} cells, {len(missing)} of them to compute",
        *([f"about {duration(seconds)} ({basis})"] if missing else []),
    ]
    return {
        "axis": request.axis.name,
        "points": list(request.points),
        "cells": len(every),
        "cells_to_compute": len(missing),
        "estimated_seconds": seconds,
        "lines": lines,
    }


def _timed(finished: Mapping[Cell, FinishedCell]) -> dict[Cell, float]:
    return {c: done.measured.seconds for c, done in finished.items() if done.measured.seconds is not None}


def _estimate(request: Request, cells: Sequence[Cell], finished: Mapping[Cell, FinishedCell]) -> float:
    """Seconds for these cells, at the speed of the finished ones."""
    timed = _timed(finished)
    work = sum(request.work(cell.point) for cell in cells)
    if not timed:
        return work * request.unit_seconds
    return work * sum(timed.values()) / sum(request.work(cell.point) for cell in timed)


def _write(request: Request, every: Sequence[Cell], finished: Mapping[Cell, FinishedCell]) -> dict[str, Any]:
    points = points_of(
        {
            point: [finished[cell].measured for cell in every if cell.point == point]
            for point in request.points
        }
    )
    notes = [*request.notes, *points.notes, *version_notes(finished[cell].made_by for cell in every)]
    curves = curves_of(points, request.metrics)
    return write_results(request.out, request.axis, points, curves, notes, request.config, request.inputs)
