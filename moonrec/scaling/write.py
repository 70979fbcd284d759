"""The files of a scaling study: Markdown, plots, the page, numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moonrec.atomic import write_json
from moonrec.errors import UserError
from moonrec.report import Report, add_provenance
from moonrec.scaling.axis import Axis
from moonrec.scaling.names import file_name
from moonrec.scaling.results import Curve, Points
from moonrec.scaling.sections import sections, terminal_lines
from moonrec.scaling.verdict import key_figures, verdict, warnings
from moonrec.study.sections import Section, add_sections, write_markdown

_FILES = ("metrics.json", "table.md", "report.html", "config.yaml", "provenance.json")


def check_places(out: Path, metrics: Sequence[str]) -> None:
    """Raise a `UserError` where a folder stands in the place of a file that will be written."""
    for name in (*_FILES, *(f"{file_name(metric)}.png" for metric in metrics)):
        if (out / name).is_dir():
            raise UserError(f"{out / name}: is a folder where a file is to be written; move it away")


def write_results(
    out: Path,
    axis: Axis,
    points: Points,
    curves: Sequence[Curve],
    notes: Sequence[str],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> dict[str, Any]:
    """Write all files, `metrics.json` last; returns what it holds, and the lines to print."""
    seeds = len(points.cells[0])
    figures = key_figures(axis, curves)
    notes = [*notes, *warnings(curves)]
    parts = sections(axis, points, curves)
    title = f"Scaling: {axis.x_label}"
    known = [Section("What to know first", texts=notes)] if notes else []
    write_markdown(out / "table.md", title, [*known, *parts], pictures=True)
    each = "seed each" if seeds == 1 else "seeds each"
    report = Report("moonrec scaling", f"{axis.x_label}: {len(points.x_P)} points, {seeds} {each}")
    report.headline(figures)
    for note in notes:
        report.warning(note)
    add_sections(report, parts)
    add_provenance(report, config, inputs)
    report.save(out / "report.html")
    metrics: dict[str, Any] = {
        "key_figures": [{"label": label, "value": value, "note": note} for label, value, note in figures],
        "verdicts": [verdict(curve) for curve in curves],
        "notes": notes,
        "axis": axis.name,
        "x": axis.x_label,
        "seeds": seeds,
        "metrics": {curve.metric: curve.to_dict() for curve in curves},
        "facts": [
            {"setting": setting, **points.facts(place)} for place, setting in enumerate(points.setting_P)
        ],
    }
    write_json(out / "metrics.json", metrics)
    return {**metrics, "lines": terminal_lines(axis, curves, notes, out)}
