"""The numbers of a page: one run's in large type and as tables, or several runs' side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moonrec.compare.established import without_unestablished
from moonrec.compare.measures import best_of, direction, headline, label_of
from moonrec.compare.numbers import Numbers, is_drawable, is_finite_number, numbers_of
from moonrec.compare.panels import panel_figure
from moonrec.compare.run_files import RunFiles
from moonrec.compare.tables import interval_text, tables_of
from moonrec.compare.told import KeyFigure, figures_of, measured_only, notes_of, verdicts_of
from moonrec.report import Cell, Report, format_value

_LARGE, _BESIDE, _DRAWN = 8, 14, 8
_OPEN, _MAX_TABLES, _MAX_ROWS = 10, 80, 100


def key_figures(command: str, metrics: Mapping[str, Any], limit: int) -> list[KeyFigure]:
    """The numbers that a reader looks for first, with their intervals, for `Report.headline`.

    Those that the run chose itself; otherwise those that its command is run for.

    Args:
        command: which measured them.
        metrics: the content of `metrics.json`.
        limit: how many at most.
    """
    if chosen := figures_of(metrics, limit):
        return chosen
    numbers = numbers_of(measured_only(metrics))
    shown, why_not = without_unestablished(numbers)
    return [
        (label_of(name), shown.values[name], why_not.get(name) or _interval(shown, name))
        for name in headline(command, [numbers.values], limit)
    ]


def add_one(report: Report, run: RunFiles) -> None:
    """Add one run's key figures in large type, what it found and warns of, and the plots in its folder."""
    report.headline(key_figures(run.command, run.metrics, _LARGE))
    for note in notes_of(run.metrics):
        report.warning(note)
    for verdict in verdicts_of(run.metrics):
        report.text(verdict)
    for name, image in run.plots.items():
        report.picture(image, name)


def add_tables(report: Report, run: RunFiles) -> None:
    """Add every number that one run measured."""
    report.heading("Numbers")
    tables = list(tables_of(measured_only(run.metrics)))
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
    _add_told(report, runs)
    measured = [numbers_of(measured_only(run.metrics)) for run in runs]
    names = headline(runs[0].command, [one.values for one in measured], _BESIDE)
    shown, reasons = zip(*(without_unestablished(one) for one in measured), strict=True)
    columns = [_Column(run.name, *one) for run, *one in zip(runs, shown, reasons, strict=True)]
    if names:
        report.table(
            [_beside(label_of(name), name, columns) for name in names],
            f"Small: the difference to {runs[0].name}, and the 95 % interval where there is one. "
            "Bold: the best of the row.",
        )
        _add_panels(report, names, columns)
    else:
        report.text("The runs hold no number of which more or less is better.")
    every = list(dict.fromkeys(name for one in measured for name in one.values))
    with report.details(f"All {len(every):,} numbers"):
        report.table([_beside(name, name, columns) for name in every])
        if not all(one.complete for one in measured):
            report.text("These are the first numbers of each run; the rest stands in metrics.json.")


@dataclass(frozen=True)
class _Column:
    """A run beside others: its numbers, and why it has no number where it could have one."""

    name: str
    numbers: Numbers
    why_not: Mapping[str, str]


def _add_told(report: Report, runs: Sequence[RunFiles]) -> None:
    """What the runs say of themselves: notes of several once, figures side by side, verdicts below."""
    names_of: dict[str, list[str]] = {}
    for run in runs:
        for note in notes_of(run.metrics):
            names_of.setdefault(note, []).append(run.name)
    for note, names in names_of.items():
        report.warning(note if len(names) == len(runs) else f"{', '.join(names)}: {note}")
    figures = [
        {label: Cell(value, note) for label, value, note in figures_of(run.metrics, _LARGE)} for run in runs
    ]
    labels = dict.fromkeys(label for one in figures for label in one)
    if labels:
        report.table(
            [
                {"": label} | {run.name: one.get(label) for run, one in zip(runs, figures, strict=True)}
                for label in labels
            ],
            "What each run is about",
        )
    for run in runs:
        for verdict in verdicts_of(run.metrics):
            report.text(f"{run.name}: {verdict}")


def _add_panels(report: Report, names: Sequence[str], columns: Sequence[_Column]) -> None:
    numbers = [one.numbers for one in columns]
    drawn = [name for name in names if any(is_drawable(one.values.get(name)) for one in numbers)][:_DRAWN]
    if not drawn:
        return
    told = ["arrows point to where it is better"] if any(map(direction, drawn)) else []
    if any(name in one.intervals for name in drawn for one in numbers):
        told.append("bars: 95 % intervals")
    caption = "; ".join(told)
    report.figure(
        panel_figure(drawn, [(one.name, one.numbers) for one in columns]), caption[:1].upper() + caption[1:]
    )


def _beside(label: str, name: str, columns: Sequence[_Column]) -> dict[str, Any]:
    """A row: one number of every run, with its difference to the first run's and its interval."""
    values = [one.numbers.values.get(name) for one in columns]
    best = best_of(name, values)
    row: dict[str, Any] = {"": label}
    for place, one in enumerate(columns):
        notes = (
            one.why_not.get(name, ""),
            _difference(values[0], values[place]) if place else "",
            _interval(one.numbers, name),
        )
        row[one.name] = Cell(values[place], "\n".join(filter(None, notes)), place in best)
    return row


def _difference(first: Any, value: Any) -> str:
    if not (is_finite_number(first) and is_finite_number(value)):
        return ""
    difference = value - first
    if not is_finite_number(difference):
        return ""
    if not difference:
        return "±0"
    return f"{'−' if difference < 0 else '+'}{format_value(abs(difference))}"


def _interval(numbers: Numbers, name: str) -> str:
    return interval_text(numbers.intervals.get(name))
