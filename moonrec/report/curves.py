"""The plain curves of a report, drawn alike everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

# Okabe and Ito's colours, told apart by colour-blind readers (https://jfly.uni-koeln.de/color/), the lightest
# ones left out: they are lost on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6b6b6b", "#b58900", "#56b4e9", "#5b3a8e")
# Once the colours are used up, the dashes change.
_DASHES = ("-", "--", ":", "-.")
_MARKED = 40


def line_figure(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str
) -> Figure:
    """A small line plot: one (x, y) series per name."""
    figure = Figure(figsize=(6.4, 3.4))
    axes = figure.subplots()
    for number, (name, (x, y)) in enumerate(lines.items()):
        round_, colour = divmod(number, len(COLOURS))
        axes.plot(
            x, y, label=plain_text(name), linewidth=1.6, color=COLOURS[colour],
            linestyle=_DASHES[round_ % len(_DASHES)], marker="." if len(x) < _MARKED else None,
        )  # fmt: skip
    axes.set(xlabel=x_label, ylabel=y_label)
    if all(float(one).is_integer() for x, _ in lines.values() for one in x):
        axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize="small")
    return figure


def plain_text(name: str) -> str:
    """A name that Matplotlib shows as it is: no formula between dollars, and not hidden by an underscore."""
    plain = name.replace("$", r"\$")
    return f" {plain}" if plain[:1] in ("", "_") else plain
