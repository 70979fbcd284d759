"""The plots of an evaluation: every task's number with its interval, and what chance reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from encoders.evaluation.report_words import Entrants, chance_of_hit, task_label
from encoders.evaluation.tasks import ATTRIBUTES, CLASSIFICATION
from moonrec.report import Report
from moonrec.report.curves import COLOURS, plain_text

HIT, CUTOFF = "hit@10", 10
_MOST_LINES = 24
_CHANCE = "#8a8a8a"


@dataclass(frozen=True)
class _Line:
    """One task: what chance reaches, and per entrant the number and its interval (None: not known)."""

    label: str
    chance: float
    of: Mapping[str, tuple[float, tuple[float | None, float | None]]]


def add_figures(report: Report, entrants: Entrants) -> None:
    """Add a plot of the hit rates and one of the accuracies, where there are any."""
    hits = _lines(entrants, "retrieval", HIT, lambda values: chance_of_hit(values, CUTOFF))
    correct = [
        line
        for group in (CLASSIFICATION, ATTRIBUTES)
        for line in _lines(entrants, group, "accuracy", lambda values: float(values["majority"]))
    ]
    for lines, x_label, chance in (
        (hits, HIT, "a random order"),
        (correct, "accuracy", "always the commonest label"),
    ):
        if lines:
            left_out = len(lines) - _MOST_LINES
            more = f"; {left_out:,} more stand in the table" if left_out > 0 else ""
            report.figure(
                interval_figure(lines[:_MOST_LINES], list(entrants), x_label, chance),
                f"{x_label}; bars: 95 % intervals; grey: {chance}{more}",
            )


def interval_figure(lines: Sequence[_Line], entrants: Sequence[str], x_label: str, chance: str) -> Figure:
    """Points with intervals, one row per line and one colour per entrant; a grey mark where chance is."""
    apart = 0.7 / len(entrants)
    figure = Figure(figsize=(5.6, 0.9 + len(lines) * (0.2 + 0.16 * len(entrants))), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(entrants):
        rows = [
            (place + (number - (len(entrants) - 1) / 2) * apart, *line.of[name])
            for place, line in enumerate(lines)
            if name in line.of
        ]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot([value for _, value, _ in rows], [y for y, _, _ in rows], "o", color=colour,
                  markersize=5, label=plain_text(name), zorder=3)  # fmt: skip
        for y, _, (low, high) in rows:
            if low is not None and high is not None:
                axes.plot((low, high), (y, y), color=colour, linewidth=1.8)
    for place, line in enumerate(lines):
        axes.plot(
            (line.chance, line.chance), (place - 0.42, place + 0.42), color=_CHANCE, linewidth=1.6, zorder=2,
            label=chance if place == 0 else None,
        )  # fmt: skip
    axes.set_yticks(range(len(lines)), [plain_text(line.label) for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(-0.015, 1.015)
    axes.set_xlabel(x_label)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if len(entrants) > 1:
        figure.legend(frameon=False, fontsize="small", loc="outside upper left", ncols=3)
    return figure


def _lines(
    entrants: Entrants, group: str, metric: str, chance: Callable[[Mapping[str, Any]], float]
) -> list[_Line]:
    names = dict.fromkeys(part for values in entrants.values() for part in values.get(group, {}))
    found = []
    for part in names:
        own = {
            name: values[group][part] for name, values in entrants.items() if part in values.get(group, {})
        }
        points = {
            name: (float(one[metric]), tuple(one["ci"][metric]))
            for name, one in own.items()
            if one[metric] is not None
        }
        if points:
            label = _cut(task_label(f"{group}.{part}"))
            found.append(_Line(label, chance(next(iter(own.values()))), points))
    return found


def _cut(label: str) -> str:
    return label if len(label) <= 28 else f"{label[:27]}…"
