"""Key numbers of several runs as points with their intervals: one panel per number, one row per run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure

from moonrec.compare.measures import direction, label_of
from moonrec.compare.numbers import Numbers, is_drawable
from moonrec.report.curves import COLOURS, plain_text

_COLUMNS = 2
_TITLE_LETTERS, _TITLE_LINES = 27, 3


def panel_figure(names: Sequence[str], runs: Sequence[tuple[str, Numbers]]) -> Figure:
    """One small panel per number in `names`, with a point per (name, numbers) of `runs`."""
    rows = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(5.8, rows * (0.95 + 0.27 * len(runs))), layout="constrained")
    panels = figure.subplots(rows, min(_COLUMNS, len(names)), squeeze=False, sharey=True).ravel()
    for axes, name in zip(panels, names, strict=False):
        for place, (_, numbers) in enumerate(runs):
            value = numbers.values.get(name)
            if not is_drawable(value):
                continue
            interval = numbers.intervals.get(name, ())
            if interval and all(map(is_drawable, interval)):
                axes.plot(interval, (place, place), color=_colour(place), linewidth=1.6)
            axes.plot([value], [place], "o", color=_colour(place), markersize=6)
        arrow = {1: " →", -1: " ←", 0: ""}[direction(name)]
        axes.set_title(_wrapped(label_of(name) + arrow), fontsize="small", loc="left")
        axes.set_yticks(range(len(runs)), [plain_text(_cut(run)) for run, _ in runs])
        axes.set_ylim(len(runs) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=3)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    return figure


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _wrapped(title: str) -> str:
    """A title in lines as wide as its own panel, so that it does not run into the next one."""
    lines = textwrap.wrap(title, _TITLE_LETTERS, max_lines=_TITLE_LINES, placeholder=" …")
    return "\n".join(map(plain_text, lines))


def _cut(name: str) -> str:
    return name if len(name) <= 24 else f"…{name[-23:]}"
