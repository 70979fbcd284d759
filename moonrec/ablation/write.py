"""The files of an ablation: Markdown, CSV, plots, the page."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from moonrec.ablation.figures import difference_figure, tradeoff_figure
from moonrec.ablation.metrics import label_of
from moonrec.ablation.paper import paper_drop
from moonrec.ablation.sections import Section
from moonrec.ablation.table import CellValues, RowResult, summary_text
from moonrec.atomic import atomic_file
from moonrec.markdown import markdown_table
from moonrec.report import Report

_TABLE_COLUMNS = (
    "study", "row", "label", "metric", "seeds", "mean", "sd", "against", "difference", "ci_low", "ci_high",
    "paper_difference",
)  # fmt: skip


def write_tables(out: Path, results: Sequence[RowResult], values: CellValues) -> None:
    """Write `table.csv` (a line per row and metric) and `cells.csv` (a line per row, seed and metric).

    Values are shares of 1 and seconds, as in `metrics.json`; the paper's difference is a share, too.
    """
    _write_csv(out / "table.csv", _TABLE_COLUMNS, (line for r in results for line in _table_lines(r)))
    cells = (
        (result.study, result.row, seed, metric, value)
        for result in results
        for seed, found in sorted(values[result.cell].items())
        for metric, value in found.items()
    )
    _write_csv(out / "cells.csv", ("study", "row", "seed", "metric", "value"), cells)


def _table_lines(result: RowResult) -> Iterable[Sequence[Any]]:
    for metric, found in result.summaries.items():
        difference = result.differences.get(metric)
        compared = (difference.mean, difference.low, difference.high) if difference else (None,) * 3
        paper = paper_drop(result.study, result.row, metric)
        yield (
            result.study, result.row, result.label, metric, found.seeds, found.mean, found.sd,
            result.against if difference else None, *compared, None if paper is None else -paper / 100,
        )  # fmt: skip


def _write_csv(path: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(lines)


def write_markdown(out: Path, subtitle: str, parts: Sequence[Section]) -> None:
    """Write `table.md`."""
    text = ["# Ablation", "", subtitle, ""]
    for part in parts:
        text += [f"## {part.heading}", ""]
        for caption, lines in part.tables:
            text += [f"{caption}:", "", *markdown_table(lines), ""]
        for paragraph in part.texts:
            text += [paragraph, ""]
    with atomic_file(out / "table.md") as temporary:
        temporary.write_text("\n".join(text), encoding="utf-8")


def write_report(
    out: Path,
    subtitle: str,
    parts: Sequence[Section],
    results: Sequence[RowResult],
    config: Mapping[str, Any],
) -> None:
    """Write `report.html`, and where there are any, `table.png` (differences) and `mix.png` (trade-off)."""
    report = Report("moonrec ablate", subtitle)
    for name, figure, caption in (
        ("table.png", difference_figure(results), "Differences with 95 % intervals over seeds"),
        (
            "mix.png",
            tradeoff_figure(results),
            "Image against text queries; bars: one standard deviation",
        ),
    ):
        if figure is None:
            (out / name).unlink(missing_ok=True)
            continue
        _write_figure(out / name, figure)
        report.figure(figure, caption)
    for part in parts:
        report.heading(part.heading)
        for caption, lines in part.tables:
            report.table(lines, caption)
        for paragraph in part.texts:
            report.text(paragraph)
    report.heading("Configuration")
    report.table([{"row": r.key, "cells": r.cell, "options": _options(r)} for r in results], "Rows")
    report.table([{"option": name, "value": str(value)} for name, value in config.items()])
    report.save(out / "report.html")


def _options(result: RowResult) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in result.options.items())


def _write_figure(path: Path, figure: Figure) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")


def terminal_lines(results: Sequence[RowResult], metrics: Sequence[str], out: Path) -> list[str]:
    """What the command prints: the rows with mean and spread, and where the rest stands."""
    cells = [["", *map(label_of, metrics)]]
    cells += [[r.key, *(summary_text(r.summaries.get(m), m) for m in metrics)] for r in results]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    aligned = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    return [*aligned, "", f"Table: {out / 'table.md'}", f"Report: {out / 'report.html'}"]
