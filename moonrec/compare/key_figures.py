"""The numbers of a page: one run's in large type and as tables, or several runs' side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moonrec.compare.measures import best_of, headline, label_of
from moonrec.compare.numbers import Numbers, is_finite_number, numbers_of
from moonrec.compare.panels import panel_figure
from moonrec.compare.run_files import RunFiles
from moonrec.compare.tables import interval_text, tables_of
from moonrec.report import Cell, Report, format_value

_LARGE, _BESIDE, _DRAWN = 8, 14, 8
_OPEN, _MAX_TABLES, _MAX_ROWS, _MAX_WARNINGS, _LETTERS = 10, 80, 100, 20, 500


def key_figures(command: str, metrics: Mapping[str, Any], limit: int) -> list[tuple[str, object, str]]:
    """The numbers that a reader looks for first, with their intervals, for `Report.headline`.

    Args:
        command: which measured them.
        metrics: the content of `metrics.json`.
        limit: how many at most.
    """
    numbers = numbers_of(metrics)
    names = headline(command, [numbers.values], limit)
    return [(label_of(name), numbers.values[name], _interval(numbers, name)) for name in names]


def add_one(report: Report, run: RunFiles) -> None:
    """Add one run's key figures in large type, what it warns of, and the plots that stand in its folder."""
    report.headline(key_figures(run.command, run.metrics, _LARGE))
    warnings = run.metrics.get("warnings")
    for warning in warnings[:_MAX_WARNINGS] if isinstance(warnings, list) else ():
        report.warning(str(warning)[:_LETTERS])
    for name, image in run.plots.items():
        report.picture(image, name)


def add_tables(report: Report, run: RunFiles) -> None:
    """Add every number that one run measured."""
    report.heading("Numbers")
    tables = list(tables_of(run.metrics))
    _add_tables(report, tables[:_OPEN])
    if tables[_OPEN:]:
        with report.details("More numbers"):
            _add_tables(report, tables[_OPEN:_MAX_TABLES])
            if len(tables) > _MAX_TABLES:
                report.text(f"{len(tables) - _MAX_TABLES:,} further tables stand in metrics.json.")
    if not tables:
        report.text("The run measured nothing.")


def _add_tables(report: Report, tables: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    for caption, rows in tables:
        report.table(rows[:_MAX_ROWS], caption)
        if len(rows) > _MAX_ROWS:
            report.text(f"{len(rows) - _MAX_ROWS:,} further rows of this table stand in metrics.json.")


def add_several(report: Report, runs: Sequence[RunFiles]) -> None:
    """Add the key figures of runs of one command side by side, then all that they measured, folded."""
    numbers = [numbers_of(run.metrics) for run in runs]
    values = [one.values for one in numbers]
    names = headline(runs[0].command, values, _BESIDE)
    if names:
        report.table(
            [_beside(label_of(name), name, runs, numbers) for name in names],
            f"Small: the difference to {runs[0].name}, and the 95 % interval where there is one. "
            "Bold: the best of the row.",
        )
        bars = any(name in one.intervals for name in names[:_DRAWN] for one in numbers)
        report.figure(
            panel_figure(names[:_DRAWN], [(run.name, one) for run, one in zip(runs, numbers, strict=True)]),
            "Arrows point to where it is better" + ("; bars: 95 % intervals" if bars else ""),
        )
    else:
        report.text("The runs hold no number of which more or less is better.")
    every = list(dict.fromkeys(name for one in values for name in one))
    with report.details(f"All {len(every):,} numbers"):
        report.table([_beside(name, name, runs, numbers) for name in every])
        if not all(one.complete for one in numbers):
            report.text("These are the first numbers of each run; the rest stands in metrics.json.")


def _beside(label: str, name: str, runs: Sequence[RunFiles], numbers: Sequence[Numbers]) -> dict[str, Any]:
    """A row: one number of every run, with its difference to the first run's and its interval."""
    values = [one.values.get(name) for one in numbers]
    best = best_of(name, values)
    row: dict[str, Any] = {"": label}
    for place, (run, one) in enumerate(zip(runs, numbers, strict=True)):
        notes = (_difference(values[0], values[place]) if place else "", _interval(one, name))
        row[run.name] = Cell(values[place], "\n".join(filter(None, notes)), place in best)
    return row


def _difference(first: Any, value: Any) -> str:
    if not (is_finite_number(first) and is_finite_number(value)):
        return ""
    difference = value - first
    if not difference:
        return "±0"
    return f"{'−' if difference < 0 else '+'}{format_value(abs(difference))}"


def _interval(numbers: Numbers, name: str) -> str:
    return interval_text(numbers.intervals.get(name))
