"""The files of a scaling study: Markdown, plots, the page, and what the command prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moonrec.atomic import atomic_file
from moonrec.report import Report, add_provenance
from moonrec.scaling.axis import Axis
from moonrec.scaling.figures import curve_figure
from moonrec.scaling.results import Curve, Points
from moonrec.scaling.sections import Line, Section, metric_section, points_section, reading_section, verdict


def write_markdown(
    out: Path, axis: Axis, points: Points, curves: Sequence[Curve], notes: Sequence[str]
) -> None:
    """Write `table.md`, and a plot per metric beside it (`<metric>.png`)."""
    text = [f"# Scaling: {axis.x_label}", ""]
    for curve in curves:
        name = _picture_name(curve)
        with atomic_file(out / name) as temporary:
            curve_figure(axis, curve).savefig(temporary, format="png", dpi=150, bbox_inches="tight")
        text += [*_markdown(metric_section(axis, curve)), f"![{curve.metric}]({name})", ""]
    for section in (points_section(axis, points), _reading(points, notes)):
        text += _markdown(section)
    with atomic_file(out / "table.md") as temporary:
        temporary.write_text("\n".join(text), encoding="utf-8")


def write_report(
    out: Path,
    axis: Axis,
    points: Points,
    curves: Sequence[Curve],
    notes: Sequence[str],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    """Write `report.html`."""
    seeds = len(points.cells[0])
    report = Report(
        "moonrec scaling",
        f"{axis.x_label}: {len(points.x_P)} points, {seeds} {'seed' if seeds == 1 else 'seeds'} each",
    )
    for note in notes:
        report.warning(note)
    for curve in curves:
        section = metric_section(axis, curve)
        report.heading(section.heading)
        for told in section.texts:
            report.text(told)
        for caption, lines in section.tables:
            report.table(lines, caption)
        report.figure(curve_figure(axis, curve), f"{curve.metric} over {axis.x_label}, with 95 % bands")
    for section in (points_section(axis, points), _reading(points, ())):
        report.heading(section.heading)
        for caption, lines in section.tables:
            report.table(lines, caption)
        for told in section.texts:
            report.text(told)
    add_provenance(report, config, inputs)
    report.save(out / "report.html")


def terminal_lines(axis: Axis, curves: Sequence[Curve], notes: Sequence[str], out: Path) -> list[str]:
    """What the command prints: the points, what the laws say, and where the rest stands."""
    cells = [[axis.x_label, *(curve.metric for curve in curves)]]
    for place, x in enumerate(curves[0].x_P):
        cells.append([f"{x:,.0f}", *(_mean(curve, place) for curve in curves)])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    aligned = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    return [
        *aligned, "", *(verdict(curve) for curve in curves), *notes, "",
        f"Table: {out / 'table.md'}", f"Report: {out / 'report.html'}",
    ]  # fmt: skip


def _reading(points: Points, notes: Sequence[str]) -> Section:
    return reading_section(len(points.cells[0]), notes)


def _mean(curve: Curve, place: int) -> str:
    mean = f"{curve.mean_P[place]:.4f}"
    return mean if curve.sd_P is None else f"{mean} ± {curve.sd_P[place]:.4f}"


def _picture_name(curve: Curve) -> str:
    plain = "".join(letter if letter.isalnum() or letter in ".-_" else "-" for letter in curve.metric)
    return f"{plain}.png"


def _markdown(section: Section) -> list[str]:
    text = [f"## {section.heading}", ""]
    for caption, lines in section.tables:
        text += [f"{caption}:", "", *_markdown_table(lines), ""]
    for paragraph in section.texts:
        text += [paragraph, ""]
    return text


def _markdown_table(lines: Sequence[Line]) -> list[str]:
    columns = list(lines[0])
    rows = ([line[name].replace("|", "\\|") for name in columns] for line in lines)
    return [_row(columns), "|---" * len(columns) + "|", *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
