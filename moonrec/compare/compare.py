"""`moonrec report`: run folders in, one self-contained page out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonrec.atomic import storage_errors
from moonrec.compare.bounded_files import read_head
from moonrec.compare.key_figures import add_one, add_several, add_tables
from moonrec.compare.learning_curves import add_curves
from moonrec.compare.origins import add_origins, comparability_warning
from moonrec.compare.pictures import add_pictures, add_shared_pictures
from moonrec.compare.run_files import RunFiles, read_run, run_names
from moonrec.errors import UserError
from moonrec.output_place import refuse_inside_inputs
from moonrec.report import Report

_MAKER = "moonrec report"
_MARK = f'<meta name="generator" content="{_MAKER}">'.encode()
_MAX_RUNS = 16
_MAX_NAME = 60


@dataclass(frozen=True)
class CompareConfig:
    """What to put on a page.

    Attributes:
        runs: run folders, of one command or of several.
        out: the HTML file to write.
        names: what the page calls the runs; empty: their folders' names.
    """

    runs: Sequence[str]
    out: str
    names: Sequence[str] = ()


def compare_runs(config: CompareConfig) -> dict[str, Any]:
    """Write a page about one run, or about several side by side.

    Returns:
        `report` (the page), `runs` (name, command and folder of each) and `warnings`.

    Raises:
        UserError: a folder is not that of a finished run, a file in it is not what a run writes, names do not
            fit the runs, or the page would be written into a run or over something that is no such page.
    """
    paths = [Path(run) for run in config.runs]
    names = _names(config, paths)
    _check_out(Path(config.out), paths)
    runs = [read_run(path, name) for path, name in zip(paths, names, strict=True)]
    groups = [[run for run in runs if _kind(run) == kind] for kind in dict.fromkeys(map(_kind, runs))]
    told = [warning for group in groups if (warning := comparability_warning(group))]
    report = Report(_title(runs), _subtitle(groups), maker=_MAKER)
    for warning in told:
        report.warning(warning)
    for group in groups:
        if len(groups) > 1:
            report.heading(f"moonrec {_kind(group[0])}")
            report.text(", ".join(run.name for run in group))
        _add_group(report, group)
    with storage_errors(Path(config.out)):
        report.save(config.out)
    return {
        "report": str(config.out),
        "runs": [{"name": run.name, "command": run.command, "run": str(run.path)} for run in runs],
        "warnings": told,
    }


def _add_group(report: Report, runs: Sequence[RunFiles]) -> None:
    """The numbers, the curves, the pictures and the origins of runs of one command."""
    if len(runs) == 1:
        add_one(report, runs[0])
        add_pictures(report, runs[0])
        add_curves(report, runs)
        add_tables(report, runs[0])
    else:
        add_several(report, runs)
        add_curves(report, runs)
        add_shared_pictures(report, runs)
    add_origins(report, runs)


def _kind(run: RunFiles) -> str:
    """What runs have in common whose numbers stand side by side: the command, and what a study varies."""
    axis = run.metrics.get("axis")
    if run.command == "scaling" and isinstance(axis, str):
        return f"{run.command} over {axis[:_MAX_NAME]}"
    return run.command


def _title(runs: Sequence[RunFiles]) -> str:
    shown = " · ".join(run.name for run in runs[:4])
    return shown if len(runs) <= 4 else f"{shown} and {len(runs) - 4} more"


def _subtitle(groups: Sequence[Sequence[RunFiles]]) -> str:
    counts = (f"{len(group)} runs of " if len(group) > 1 else "" for group in groups)
    return ", ".join(f"{count}moonrec {_kind(group[0])}" for count, group in zip(counts, groups, strict=True))


def _names(config: CompareConfig, paths: Sequence[Path]) -> list[str]:
    if not paths:
        raise UserError("RUN: expected at least one run folder")
    if len(paths) > _MAX_RUNS:
        raise UserError(f"RUN: {len(paths)} runs; a page holds at most {_MAX_RUNS} side by side")
    folders = [path.resolve() for path in paths]
    twice = next((path for path, at in zip(paths, folders, strict=True) if folders.count(at) > 1), None)
    if twice is not None:
        raise UserError(f"{twice}: is given more than once; give every run once")
    names = list(config.names) or run_names(paths)
    if len(names) != len(paths):
        raise UserError(f"--name: {len(names)} names for {len(paths)} runs; give one each, in their order")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"--name: {repeated!r} stands for two runs; give different names")
    long = next((name for name in config.names if len(name) > _MAX_NAME), None)
    if long is not None:
        raise UserError(f"--name: {long[:20]!r}… has more than {_MAX_NAME} letters; give a shorter one")
    return names


def _check_out(out: Path, paths: Sequence[Path]) -> None:
    """Refuse a place inside a run, and a file that this command did not write."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"-o {out}: expected the name of a page, such as compare.html")
    refuse_inside_inputs(out, [("RUN", path) for path in paths])
    for folder in out.resolve().parents:
        if os.path.exists(folder / "provenance.json"):
            raise UserError(f"-o {out}: lies in the run folder {folder}; choose another output")
    if os.path.isdir(out):
        raise UserError(f"-o {out}: is a folder; expected a file to write")
    if os.path.lexists(out) and _MARK not in read_head(out):
        raise UserError(f"-o {out}: was not written by `moonrec report`; choose another output, or delete it")
