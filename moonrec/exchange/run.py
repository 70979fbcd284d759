"""One exchange rate from plan to report.

The output folder grows cell by cell (vectors, evaluation and judge of every version, and the judge on ids
alone); tables, plots and report are written when all cells are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moonrec.domains import Domains
from moonrec.exchange.cells import Cell, Cells
from moonrec.exchange.estimate import Clock
from moonrec.exchange.judge import Judge, judged_values
from moonrec.exchange.measures import measures
from moonrec.exchange.plan import ENOUGH_VERSIONS, IDS_ONLY, Version
from moonrec.exchange.write import RESULTS, Study, write_study
from moonrec.progress import duration
from moonrec.study.folder import StudyFolder

_COMMAND = "exchange-rate"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        out: the folder to write or to go on with.
        versions: what is compared.
        fingerprints: of each version, by content.
        dim: the width of all vectors.
        evaluated: names of the versions that `moonrec evaluate` is run on; the others only meet the judge.
        pairs: steps `(before, after)` to tell of one by one.
        reference: the version that others are shown relative to.
        judge: the click model, and all that it is made of.
        vectors, evaluation: options that decide what these cells hold.
        projected: names of the versions whose vectors are no prefix of their encoder's.
        inputs: a fingerprint per table.
        rows: of each table, to guess a time from.
        domains: of the catalogue.
        config: the command's options, for `config.yaml`.
        notes: what a reader of the results must know.
        title: of the report.
    """

    out: Path
    versions: Sequence[Version]
    fingerprints: Sequence[str]
    dim: int
    evaluated: frozenset[str]
    pairs: Sequence[tuple[str, str]]
    reference: str
    judge: Judge
    vectors: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    inputs: Mapping[str, str]
    rows: Mapping[str, int]
    domains: Domains
    config: Mapping[str, Any]
    projected: frozenset[str] = frozenset()
    notes: Sequence[str] = ()
    title: str = "What a gain is worth"


@dataclass(frozen=True)
class Steps:
    """How cells are computed.

    Attributes:
        vectors: a version's embedding set of the common width, into a folder.
        evaluate: a version and its vectors, into a run folder.
        judge: vectors, or None for ids alone, into a run folder.
    """

    vectors: Callable[[Version, Path], Any]
    evaluate: Callable[[Version, Path, Path], Any]
    judge: Callable[[Path | None, Path], Any]


@dataclass(frozen=True)
class _VersionCells:
    version: Version
    vectors: Cell
    evaluation: Cell | None
    judge: Cell

    @property
    def every(self) -> list[Cell]:
        return [cell for cell in (self.vectors, self.evaluation, self.judge) if cell is not None]


def tell_plan(request: Request) -> dict[str, Any]:
    """The versions, what is to be computed and a guess of how long it takes; nothing is written.

    Raises:
        UserError: finished cells in the output were made of other options or inputs.
    """
    cells = Cells(StudyFolder(request.out, _COMMAND).cells)
    every, ids = _cells_of(request)
    lines = _plan_lines(request, cells, every, ids)
    missing = [cell for cell in _flat(every, ids) if not cells.is_finished(cell)]
    return {"cells": len(_flat(every, ids)), "missing": len(missing), "lines": lines}


def run_exchange(request: Request, steps: Steps) -> dict[str, Any]:
    """Compute what is missing and write the results; returns what `metrics.json` holds.

    Raises:
        UserError: finished cells of other options or inputs, a cell that fails, or an output that cannot be
            written.
    """
    folder = StudyFolder(request.out, _COMMAND)
    with folder.writing():
        cells = Cells(folder.cells)
        every, ids = _cells_of(request)
        flat = _flat(every, ids)
        missing = [cell for cell in flat if not cells.is_finished(cell)]
        for line in _plan_lines(request, cells, every, ids):
            folder.say(line)
        if missing:
            # Results of fewer versions must not stand beside cells of more.
            for name in RESULTS:
                (request.out / name).unlink(missing_ok=True)
        folder.compute(
            missing,
            title=lambda cell: f"{cell.version}, {cell.part}",
            run=lambda cell: cells.run(cell, _computation(cell, steps, cells, every)),
            seconds=lambda left: _seconds(request, cells, flat, left),
        )
        metrics = _write(request, cells, every, ids)
        folder.finish(
            request.config,
            request.inputs,
            seeds=list(range(request.judge.seeds)),
            versions_compared=[asdict(version) for version in request.versions],
            cells_computed=len(missing),
        )
    return metrics


def _cells_of(request: Request) -> tuple[list[_VersionCells], Cell]:
    found = []
    tables = dict(request.judge.inputs)
    for version, fingerprint in zip(request.versions, request.fingerprints, strict=True):
        common = {"items": request.inputs["items"], "version": fingerprint}
        options = {**request.vectors, "dim": request.dim}
        if version.name in request.projected:
            options["narrowing"] = "principal directions"
        ready = version.kind == "embeddings"
        evaluation = None
        if version.name in request.evaluated:
            searches = {**common, "searches": request.inputs["searches"]}
            measured = {**options, **request.evaluation}
            evaluation = Cell(version.folder, "evaluation", measured, searches, ready)
        vectors = Cell(version.folder, "vectors", options, common, ready)
        judge_options = {**options, **request.judge.cell_options}
        judge = Cell(version.folder, "judge", judge_options, {**common, **tables})
        found.append(_VersionCells(version, vectors, evaluation, judge))
    ids_options = {**request.judge.cell_options, "content": ["none"]}
    return found, Cell(IDS_ONLY, "judge", ids_options, tables)


def _flat(every: Sequence[_VersionCells], ids: Cell) -> list[Cell]:
    return [*(cell for one in every for cell in one.every), ids]


def _plan_lines(request: Request, cells: Cells, every: Sequence[_VersionCells], ids: Cell) -> list[str]:
    flat = _flat(every, ids)
    missing = [cell for cell in flat if not cells.is_finished(cell)]
    lines = [
        f"{len(every)} versions at {request.dim} dimensions, judge with {request.judge.seeds} seeds: "
        f"{len(flat)} cells, {len(missing)} of them to compute"
    ]
    for one in every:
        states = [f"{c.part} {'found' if cells.is_finished(c) else 'to compute'}" for c in one.every]
        lines.append(f"  {one.version.name} ({one.version.kind} {one.version.path}): {', '.join(states)}")
    state = "found" if cells.is_finished(ids) else "to compute"
    lines.append(f"  {IDS_ONLY}: judge {state}, as context")
    lines += request.notes
    if missing:
        told = duration(_seconds(request, cells, flat, missing))
        lines.append(f"about {told} to go: a guess from table sizes and finished cells")
    if len(every) < ENOUGH_VERSIONS:
        lines.append(
            f"with {len(every)} versions no rate will be established; {ENOUGH_VERSIONS} are the fewest"
        )
    return lines


def _seconds(request: Request, cells: Cells, every: Sequence[Cell], left: Sequence[Cell]) -> float:
    return Clock(request.rows, request.judge.seeds, cells.seconds(every)).guess(left)


def _computation(
    cell: Cell, steps: Steps, cells: Cells, every: Sequence[_VersionCells]
) -> Callable[[Path], Any]:
    """What fills the folder of a cell."""
    owner = next((one for one in every if cell in one.every), None)
    if owner is None:
        return partial(steps.judge, None)
    vectors = cells.output(owner.vectors)
    if cell.part == "judge":
        return partial(steps.judge, vectors)
    if cell.part == "evaluation":
        return partial(steps.evaluate, owner.version, vectors)
    return partial(steps.vectors, owner.version)


def _write(request: Request, cells: Cells, every: Sequence[_VersionCells], ids: Cell) -> dict[str, Any]:
    evaluations = [None if one.evaluation is None else cells.output(one.evaluation) for one in every]
    judges = [cells.output(one.judge) for one in every]
    found = measures(evaluations, judges, request.judge.seeds, request.domains)
    study = Study(
        versions=request.versions,
        fingerprints=request.fingerprints,
        dim=request.dim,
        reference=request.reference,
        pairs=request.pairs,
        measures=found,
        judge=request.judge,
        ids_only=judged_values(cells.output(ids)),
        domains=request.domains,
        notes=[*request.notes, *cells.notes(_flat(every, ids))],
        config=request.config,
        title=request.title,
    )
    return write_study(request.out, study)
