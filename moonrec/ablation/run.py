"""One ablation from plan to report.

The output folder grows cell by cell; tables, plots and report are written when all cells are there.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from moonrec.ablation.cells import Cell, Cells, FinishedCell, Test, Train
from moonrec.ablation.metrics import HEADLINE, SECONDS
from moonrec.ablation.paper import drops_beside, orders_beside
from moonrec.ablation.plan import LeftOut, PlannedRow, Resolve, plan_rows
from moonrec.ablation.sections import sections
from moonrec.ablation.study import Study
from moonrec.ablation.table import metrics_of, row_results
from moonrec.ablation.write import terminal_lines, write_markdown, write_report, write_tables
from moonrec.atomic import atomic_file, storage_errors, write_json
from moonrec.errors import UserError
from moonrec.runs import locked, refuse_other_run, source_commit, versions

_COMMAND, _CELLS, _PROVENANCE = "ablate", "cells", "provenance.json"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        out: the folder to write or to go on with.
        studies: whose rows are run.
        rows: the names of those wanted; all if empty.
        settings: flags of every row.
        seeds: how many, from 0 on.
        inputs: a fingerprint per table of training and test.
        item_columns: of the training's items table.
        config: the command's options, for `config.yaml`.
        notes: what a reader of the results must know of the data.
    """

    out: Path
    studies: Sequence[Study]
    rows: Sequence[str]
    settings: Mapping[str, str]
    seeds: int
    inputs: Mapping[str, str]
    item_columns: Collection[str]
    config: Mapping[str, Any]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Steps:
    """How flags become options, how a cell is trained, and how it is tested."""

    resolve: Resolve
    train: Train
    test: Test


def run_ablation(request: Request, steps: Steps) -> dict[str, Any]:
    """Run what is missing and write the tables; returns what `metrics.json` holds.

    Raises:
        UserError: no seeds or rows, options that cannot be, cells of other options or tables, a cell that
            fails, or an output that cannot be written.
    """
    if request.seeds < 1:
        raise UserError(f"--seeds {request.seeds}: expected at least 1")
    planned, left_out = plan_rows(
        request.studies, request.rows, request.settings, request.item_columns, steps.resolve
    )
    asked = {*request.rows}
    if asked and not asked & {row.row.name for row in planned}:
        reasons = "; ".join(f"{one.label}: {one.reason}" for one in left_out if one.row in asked)
        raise UserError(f"--rows {','.join(request.rows)}: nothing of it can be run ({reasons})")
    refuse_other_run(request.out, _COMMAND)
    started = datetime.now(UTC)
    with storage_errors(request.out), locked(request.out):
        cells = Cells(request.out / _CELLS, request.inputs, steps.train, steps.test)
        every = _cells_of(planned, request.seeds)
        missing = cells.unfinished(every)
        _tell_plan(planned, left_out, request.seeds, len(every), len(missing))
        if not (request.out / _PROVENANCE).exists():
            # From the first cell on, so that the folder is known as ours when this is stopped.
            write_json(
                request.out / _PROVENANCE,
                {"command": _COMMAND, "started": started.isoformat(timespec="seconds")},
            )
        _run(cells, missing)
        metrics = _write(request, planned, left_out, {(c.row, c.seed): cells.result(c) for c in every})
        _write_provenance(request, started, computed=len(missing))
    return metrics


def _cells_of(planned: Sequence[PlannedRow], seeds: int) -> list[Cell]:
    """Seed by seed, so that an ablation which is stopped early has all rows of fewer seeds."""
    rows = {row.cell: row for row in planned}
    return [Cell(row.cell, seed, row.flags, row.options) for seed in range(seeds) for row in rows.values()]


def _tell_plan(
    planned: Sequence[PlannedRow], left_out: Sequence[LeftOut], seeds: int, cells: int, missing: int
) -> None:
    _say(f"{len(planned)} rows × {seeds} seeds: {cells} cells, {missing} of them to compute")
    for row in planned:
        changed = ", ".join(f"{name} {value}" for name, value in row.row.options.items())
        shared = "" if row.cell == row.key else f" (cells of {row.cell})"
        _say(f"  {row.key}: {changed or 'the recipe'}{shared}")
    for one in left_out:
        _say(f"  {one.study}-{one.row}: left out, {one.reason}")


def _run(cells: Cells, missing: Sequence[Cell]) -> None:
    started = time.monotonic()
    for number, cell in enumerate(missing):
        _say(f"{cell.row}, seed {cell.seed} ({number + 1} of {len(missing)})")
        cells.run(cell)
        left = len(missing) - number - 1
        if left:
            each = (time.monotonic() - started) / (number + 1)
            _say(f"about {_duration(each * left)} to go: a rough guess from the cells so far")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _write(
    request: Request,
    planned: Sequence[PlannedRow],
    left_out: Sequence[LeftOut],
    found: Mapping[tuple[str, int], FinishedCell],
) -> dict[str, Any]:
    values: dict[str, dict[int, dict[str, float]]] = {}
    idle_rounds: dict[str, Counter[str]] = {}
    for (row, seed), cell in found.items():
        values.setdefault(row, {})[seed] = cell.metrics
        idle_rounds.setdefault(row, Counter()).update(cell.idle_rounds)
    results = row_results(planned, values, idle_rounds)
    shown = metrics_of(results)
    notes = [*request.notes, *_notes(list(found.values()))]
    parts = sections(results, left_out, request.seeds, notes)
    subtitle = f"{len(results)} rows, {request.seeds} {'seed' if request.seeds == 1 else 'seeds'} each"
    write_tables(request.out, results, values)
    write_markdown(request.out, subtitle, parts)
    write_report(request.out, subtitle, parts, results, request.config)
    metrics: dict[str, Any] = {
        "seeds": request.seeds,
        "rows": [result.to_dict() for result in results],
        "left_out": [asdict(one) for one in left_out],
        "beside_the_papers": {
            "drops": [asdict(one) for one in drops_beside(results)],
            "orders": [asdict(one) for one in orders_beside(results)],
        },
        "notes": notes,
    }
    write_json(request.out / "metrics.json", metrics)
    printed = [name for name in shown if name in HEADLINE or name == SECONDS]
    return {**metrics, "lines": terminal_lines(results, printed, request.out)}


def _notes(cells: Sequence[FinishedCell]) -> list[str]:
    """Warnings about the cells taken together."""
    makers = {json.dumps(cell.made_by, sort_keys=True) for cell in cells}
    if len(makers) == 1:
        return []
    return [
        f"The cells were made by {len(makers)} different sets of versions (see made_by in cells/*/*.json): a "
        "difference may be one of versions."
    ]


def _write_provenance(request: Request, started: datetime, computed: int) -> None:
    text = yaml.safe_dump(dict(request.config), sort_keys=False)
    with atomic_file(request.out / "config.yaml") as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_json(
        request.out / _PROVENANCE,
        {
            "command": _COMMAND,
            "arguments": sys.argv[1:],
            "seeds": list(range(request.seeds)),
            "inputs": dict(request.inputs),
            "versions": versions(),
            "git_commit": source_commit(),
            "cells_computed": computed,
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def _say(text: str) -> None:
    print(f"[ablate] {text}", file=sys.stderr, flush=True)
