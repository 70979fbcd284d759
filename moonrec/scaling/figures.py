"""The plot of one metric over one axis: points, both laws with their bands, the octave beyond, the held-out
point."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moonrec.report.curves import COLOURS
from moonrec.scaling.axis import Axis
from moonrec.scaling.laws import FORMULAS, LAWS, Law
from moonrec.scaling.names import readable
from moonrec.scaling.results import Curve

_LAW_COLOURS = dict(zip(LAWS, COLOURS, strict=False))
_POINTS = "#222222"


def curve_figure(axis: Axis, curve: Curve) -> Figure:
    """Log-x plot; the shaded octave beyond the largest point is not measured.

    A band much wider than the points runs out of the plot, so that these stay apart.
    """
    figure = Figure(figsize=(6.8, 4.0))
    axes = figure.subplots()
    last = float(curve.x_P[-1])
    for law, found in curve.analysis.fits.items():
        _draw_law(axes, curve, law, found.curve_3G, last)
    _draw_points(axes, curve)
    for law, found in curve.analysis.fits.items():
        predicted = curve.mean_P[-1] + found.held_out_error.value
        axes.plot(
            last, predicted, marker="x", markersize=8, markeredgewidth=1.8, linestyle="",
            color=_LAW_COLOURS[law], label=f"{law} law without the largest point", zorder=5,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(curve.x_P, [_short(x) for x in curve.x_P])
    axes.minorticks_off()
    axes.set(xlabel=f"{axis.x_label} (log scale)", ylabel=readable(curve.metric))
    if curve.analysis.drawn_on():
        axes.axvspan(last, float(curve.analysis.x_G[-1]), color="0.5", alpha=0.12, linewidth=0)
        axes.text(
            last * 2**0.5, 0.02, "not measured", transform=axes.get_xaxis_transform(), ha="center", size=7
        )
    low, high = float(curve.value_PS.min()), float(curve.value_PS.max())
    bottom, top = axes.get_ylim()
    if high > low:
        axes.set_ylim(max(bottom, low - (high - low)), min(top, high + (high - low)))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="x-small")
    return figure


def _draw_law(axes: Axes, curve: Curve, law: Law, curve_3G: np.ndarray, last: float) -> None:
    x_G, colour = curve.analysis.x_G, _LAW_COLOURS[law]
    inside_G = x_G <= last
    value_G, low_G, high_G = curve_3G
    axes.plot(x_G[inside_G], value_G[inside_G], color=colour, linewidth=1.6, label=f"{law}: {FORMULAS[law]}")
    shown_G = inside_G
    if law in curve.analysis.drawn_on():
        shown_G = np.ones_like(inside_G)
        beyond_G = x_G >= last
        axes.plot(x_G[beyond_G], value_G[beyond_G], color=colour, linewidth=1.6, linestyle="--")
    axes.fill_between(x_G[shown_G], low_G[shown_G], high_G[shown_G], color=colour, alpha=0.15, linewidth=0)


def _draw_points(axes: Axes, curve: Curve) -> None:
    seeds = curve.value_PS.shape[1]
    label = "measured" if curve.sd_P is None else f"mean ± sd over {seeds} seeds"
    axes.errorbar(
        curve.x_P[:-1], curve.mean_P[:-1], None if curve.sd_P is None else curve.sd_P[:-1],
        fmt="o", color=_POINTS, capsize=3, label=label, zorder=4,
    )  # fmt: skip
    axes.errorbar(
        curve.x_P[-1:], curve.mean_P[-1:], None if curve.sd_P is None else curve.sd_P[-1:],
        fmt="o", color=_POINTS, markerfacecolor="white", capsize=3, label="held out once", zorder=4,
    )  # fmt: skip


def _short(x: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x:.4g}"
