"""The files of an ablation: CSV, plots, the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moonrec.ablation.figures import difference_figure, tradeoff_figure
from moonrec.ablation.paper import paper_drop
from moonrec.ablation.sections import key_figures
from moonrec.ablation.table import CellValues, RowResult
from moonrec.report import Report, add_provenance
from moonrec.study.sections import Plot, Section, add_sections
from moonrec.text_tables import write_csv

_TABLE_COLUMNS = (
    "study", "row", "label", "metric", "seeds", "mean", "sd", "against", "difference", "ci_low", "ci_high",
    "paper_difference",
)  # fmt: skip


def write_tables(out: Path, results: Sequence[RowResult], values: CellValues) -> None:
    """Write `table.csv` (a line per row and metric) and `cells.csv` (a line per row, seed and metric).

    Values are shares of 1 and seconds, as in `metrics.json`; the paper's difference is a share, too.
    """
    write_csv(out / "table.csv", _TABLE_COLUMNS, (line for r in results for line in _table_lines(r)))
    cells = (
        (result.study, result.row, seed, metric, value)
        for result in results
        for seed, found in sorted(values[result.cell].items())
        for metric, value in found.items()
    )
    write_csv(out / "cells.csv", ("study", "row", "seed", "metric", "value"), cells)


def _table_lines(result: RowResult) -> Iterable[Sequence[Any]]:
    for metric, found in result.summaries.items():
        difference = result.differences.get(metric)
        compared = (difference.mean, difference.low, difference.high) if difference else (None,) * 3
        paper = paper_drop(result.study, result.row, metric)
        yield (
            result.study, result.row, result.label, metric, found.seeds, found.mean, found.sd,
            result.against if difference else None, *compared, None if paper is None else -paper / 100,
        )  # fmt: skip


def write_report(
    out: Path,
    subtitle: str,
    parts: Sequence[Section],
    results: Sequence[RowResult],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    """Write `report.html`, and where there are any, `table.png` (differences) and `mix.png` (trade-off)."""
    report = Report("moonrec ablate", subtitle)
    report.headline(key_figures(results))
    for name, figure, caption in (
        ("table", difference_figure(results), "Differences with 95 % intervals over seeds"),
        ("mix", tradeoff_figure(results), "Image against text queries; bars: one standard deviation"),
    ):
        if figure is None:
            (out / f"{name}.png").unlink(missing_ok=True)
            continue
        Plot(name, figure, caption).save(out)
        report.figure(figure, caption)
    add_sections(report, parts)
    report.heading("Rows")
    report.table([{"row": r.key, "cells": r.cell, "options": _options(r)} for r in results])
    add_provenance(report, config, inputs)
    report.save(out / "report.html")


def _options(result: RowResult) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in result.options.items())
