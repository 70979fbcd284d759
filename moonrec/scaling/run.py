"""One scaling study from plan to report.

The output folder grows cell by cell; tables, plots and report are written when all cells are there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from moonrec.atomic import atomic_file, storage_errors, write_json
from moonrec.errors import UserError
from moonrec.runs import locked, refuse_other_run, source_commit, versions
from moonrec.scaling.axis import Axis
from moonrec.scaling.cells import Cell, Cells, Compute, FinishedCell
from moonrec.scaling.results import curves_of, points_of
from moonrec.scaling.write import terminal_lines, write_markdown, write_report

_COMMAND, _CELLS, _PROVENANCE = "scaling", "cells", "provenance.json"


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
    refuse_other_run(request.out, _COMMAND)
    cells = Cells(request.out / _CELLS, request.options, request.inputs, compute)
    every = [Cell(point, number) for number in range(request.seeds) for point in request.points]
    if request.plan_only:
        return _told(request, every, {cell: done for cell in every if (done := cells.finished(cell))})
    started = datetime.now(UTC)
    with storage_errors(request.out), locked(request.out):
        finished = {cell: done for cell in every if (done := cells.finished(cell))}
        plan = _told(request, every, finished)
        if not (request.out / _PROVENANCE).exists():
            # From the first cell on, so that the folder is known as ours when this is stopped.
            write_json(request.out / _PROVENANCE, {"command": _COMMAND, "started": _text(started)})
        _run(request, cells, every, finished)
        metrics = _write(request, every, finished)
        _write_provenance(request, started, computed=plan["cells_to_compute"])
    return metrics


def _told(request: Request, every: Sequence[Cell], finished: Mapping[Cell, FinishedCell]) -> dict[str, Any]:
    missing = [cell for cell in every if cell not in finished]
    seconds = _estimate(request, missing, finished)
    basis = "from the finished cells" if _timed(finished) else "a guess until the first cell is there"
    _say(
        f"{request.axis.name}: {len(request.points)} points × {request.seeds} seeds: {len(every)} cells, "
        f"{len(missing)} of them to compute"
    )
    for point in request.points:
        to_do = [cell for cell in missing if cell.point == point]
        own = f"about {_duration(_estimate(request, to_do, finished))}" if to_do else "finished"
        _say(f"  {point:,} {request.axis.points_are}: {own}")
    if missing:
        _say(f"about {_duration(seconds)} in all ({basis})")
    lines = [
        f"{len(every)} cells, {len(missing)} of them to compute",
        *([f"about {_duration(seconds)} ({basis})"] if missing else []),
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


def _run(request: Request, cells: Cells, every: Sequence[Cell], finished: dict[Cell, FinishedCell]) -> None:
    missing = [cell for cell in every if cell not in finished]
    for place, cell in enumerate(missing):
        _say(f"{cell.point:,} {request.axis.points_are}, seed {cell.number} ({place + 1} of {len(missing)})")
        finished[cell] = cells.run(cell)
        left = missing[place + 1 :]
        if left:
            _say(f"about {_duration(_estimate(request, left, finished))} to go")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _write(request: Request, every: Sequence[Cell], finished: Mapping[Cell, FinishedCell]) -> dict[str, Any]:
    points = points_of(
        {
            point: [finished[cell].measured for cell in every if cell.point == point]
            for point in request.points
        }
    )
    curves = curves_of(points, request.metrics)
    notes = [*request.notes, *points.notes, *_version_notes([finished[cell] for cell in every])]
    write_markdown(request.out, request.axis, points, curves, notes)
    write_report(request.out, request.axis, points, curves, notes, request.config, request.inputs)
    metrics: dict[str, Any] = {
        "axis": request.axis.name,
        "x": request.axis.x_label,
        "seeds": request.seeds,
        "metrics": {curve.metric: curve.to_dict() for curve in curves},
        "facts": [
            {"setting": setting, **points.facts(place)} for place, setting in enumerate(points.setting_P)
        ],
        "notes": notes,
    }
    write_json(request.out / "metrics.json", metrics)
    return {**metrics, "lines": terminal_lines(request.axis, curves, notes, request.out)}


def _version_notes(cells: Sequence[FinishedCell]) -> list[str]:
    makers = {json.dumps(cell.made_by, sort_keys=True) for cell in cells}
    if len(makers) == 1:
        return []
    return [
        f"The cells were made by {len(makers)} different sets of versions (see made_by in cells/*/*.json): a "
        "difference between points may be one of versions."
    ]


def _write_provenance(request: Request, started: datetime, computed: int) -> None:
    with atomic_file(request.out / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(dict(request.config), sort_keys=False), encoding="utf-8")
    write_json(
        request.out / _PROVENANCE,
        {
            "command": _COMMAND,
            "arguments": sys.argv[1:],
            "seeds": request.seeds,
            "inputs": dict(request.inputs),
            "versions": versions(),
            "git_commit": source_commit(),
            "cells_computed": computed,
            "started": _text(started),
            "finished": _text(datetime.now(UTC)),
        },
    )


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _say(text: str) -> None:
    print(f"[scaling] {text}", file=sys.stderr, flush=True)
