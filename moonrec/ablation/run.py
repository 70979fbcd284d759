"""One ablation from plan to report.

The output folder grows cell by cell; tables, plots and report are written when all cells are there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonrec.ablation.cells import Cell, Cells, FinishedCell, Test, Train
from moonrec.ablation.metrics import HEADLINE, SECONDS
from moonrec.ablation.paper import drops_beside, orders_beside
from moonrec.ablation.plan import LeftOut, PlannedRow, Resolve, plan_rows
from moonrec.ablation.sections import sections, terminal_lines
from moonrec.ablation.study import Study
from moonrec.ablation.table import metrics_of, row_results
from moonrec.ablation.write import write_report, write_tables
from moonrec.atomic import write_json
from moonrec.errors import UserError
from moonrec.study.folder import StudyFolder
from moonrec.study.records import version_notes
from moonrec.study.sections import write_markdown


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
    folder = StudyFolder(request.out, "ablate")
    with folder.writing():
        cells = Cells(folder.cells, request.inputs, steps.train, steps.test)
        every = _cells_of(planned, request.seeds)
        missing = cells.unfinished(every)
        for line in _plan_lines(planned, left_out, request.seeds, len(every), len(missing)):
            folder.say(line)
        started = time.monotonic()

        def seconds(left: Sequence[Cell]) -> float:
            return (time.monotonic() - started) / (len(missing) - len(left)) * len(left)

        folder.compute(missing, lambda cell: f"{cell.row}, seed {cell.seed}", cells.run, seconds)
        metrics = _write(request, planned, left_out, {(c.row, c.seed): cells.result(c) for c in every})
        seeds = list(range(request.seeds))
        folder.finish(request.config, request.inputs, seeds=seeds, cells_computed=len(missing))
    return metrics


def _cells_of(planned: Sequence[PlannedRow], seeds: int) -> list[Cell]:
    """Seed by seed, so that an ablation which is stopped early has all rows of fewer seeds."""
    rows = {row.cell: row for row in planned}
    return [Cell(row.cell, seed, row.flags, row.options) for seed in range(seeds) for row in rows.values()]


def _plan_lines(
    planned: Sequence[PlannedRow], left_out: Sequence[LeftOut], seeds: int, cells: int, missing: int
) -> Iterator[str]:
    yield f"{len(planned)} rows × {seeds} seeds: {cells} cells, {missing} of them to compute"
    for row in planned:
        changed = ", ".join(f"{name} {value}" for name, value in row.row.options.items())
        shared = "" if row.cell == row.key else f" (cells of {row.cell})"
        yield f"  {row.key}: {changed or 'the recipe'}{shared}"
    for one in left_out:
        yield f"  {one.study}-{one.row}: left out, {one.reason}"


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
    notes = [*request.notes, *version_notes(cell.made_by for cell in found.values())]
    parts = sections(results, left_out, request.seeds, notes)
    subtitle = f"{len(results)} rows, {request.seeds} {'seed' if request.seeds == 1 else 'seeds'} each"
    write_tables(request.out, results, values)
    write_markdown(request.out / "table.md", "Ablation", parts, subtitle)
    write_report(request.out, subtitle, parts, results, request.config, request.inputs)
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
