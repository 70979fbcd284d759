"""Plots of an exchange rate: versions and line, slopes per domain, metrics beside each other.

All are as wide as a phone shows them legibly. Legend: V versions, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moonrec.exchange.line import Line, quantile
from moonrec.exchange.observations import Metric, Outcome, Versions
from moonrec.exchange.points import Points, points_of
from moonrec.exchange.slope import Rate
from moonrec.exchange.words import domain_label, metric_label, outcome_label, unit_of

_WIDTH = 5.2
_SMALL = 9
_MOST_METRICS = 20
# So many versions are all named; of more only those that stand out, or names write over each other.
_ALL_NAMED, _MOST_NAMES = 12, 6
_MARKERS = "osD^vP*X"


def scatter_figure(
    metric: Metric, outcome: Outcome, versions: Versions, reference: str | None = None
) -> Figure | None:
    """The versions with 95 % intervals in both directions, and the line with its band.

    Intervals are of a version against the mean of all: luck that all versions share moves none of them
    against another, and seeds are paired. None where fewer than two versions have both.

    Args:
        metric: horizontal.
        outcome: vertical, in points of a hundred; of the same domain.
        versions: their names and families, which have a colour each.
        reference: the version from which the outcome is counted; the first one by default.
    """
    points = points_of(metric, outcome, versions)
    if len(points.row_V) < 2:
        return None
    names = [versions.names[row] for row in points.row_V]
    families = [versions.families[row] for row in points.row_V]
    zero = names.index(reference) if reference in names else 0
    figure = Figure(figsize=(_WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    above_V = 100 * (points.mean_V - points.mean_V[zero])
    x_half_V, y_half_V = _half_widths(points)
    for number, family in enumerate(dict.fromkeys(families)):
        own = [index for index, name in enumerate(families) if name == family]
        axes.errorbar(
            points.x_V[own], above_V[own], xerr=x_half_V[own], yerr=100 * y_half_V[own], capsize=2,
            elinewidth=0.8, markersize=5, color=f"C{number % 10}", linestyle="", label=family,
            marker=_MARKERS[number // 10 % len(_MARKERS)],
        )  # fmt: skip
    if points.has_line():
        _draw_line(axes, points.line(), points, zero)
    _write_names(axes, names, points.x_V, above_V)
    if 1 < len(set(families)) < len(families):
        axes.legend(frameon=False, fontsize=_SMALL)
    unit = unit_of(metric.name)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value * unit.scale:.6g}")
    axes.set_xlabel(f"{metric_label(metric.name)}, {unit.name}")
    axes.set_ylabel(f"{outcome_label(outcome.name)} against {names[zero]}, points")
    axes.set_title(domain_label(metric.domain), fontsize=_SMALL + 1)
    axes.grid(alpha=0.3)
    return figure


def _half_widths(points: Points) -> tuple[np.ndarray, np.ndarray]:
    """Half the 95 % intervals of metric and outcome against the mean of the versions."""
    seeds = points.y_VS.shape[1]
    metric_V, users_V = (
        np.maximum(0.0, _own_variance(c)) for c in (points.noise.metric_VV, points.noise.outcome_VV)
    )
    if seeds < 2:
        return quantile(np.inf) * np.sqrt(metric_V), quantile(np.inf) * np.sqrt(users_V)
    paired_VS = points.y_VS - points.y_VS.mean(axis=0)
    seeds_V = paired_VS.var(axis=1, ddof=1) / seeds
    # What versions differ by is one noise for all of them: their mean variance is far steadier than each.
    total_V = seeds_V.mean() + users_V
    freedom = (seeds - 1) * max(1, len(points.row_V) - 1)
    return quantile(np.inf) * np.sqrt(metric_V), quantile(freedom) * np.sqrt(total_V)


def _own_variance(covariance_VV: np.ndarray) -> np.ndarray:
    """Of each version minus the mean of all."""
    centred_VV = covariance_VV - covariance_VV.mean(axis=0)
    return np.diag(centred_VV - centred_VV.mean(axis=1, keepdims=True))


def _draw_line(axes: Axes, line: Line, points: Points, zero: int) -> None:
    slope = line.slope_ols if line.slope is None else line.slope
    margin = 0.05 * np.ptp(points.x_V)
    x = np.linspace(points.x_V.min() - margin, points.x_V.max() + margin, 60)
    height = line.mean_y - points.mean_V[zero] + slope * (x - line.mean_x)
    axes.plot(x, 100 * height, color="0.4", linewidth=1)
    if line.variance is None or line.level_variance is None or line.freedom is None:
        return
    error = np.sqrt(line.level_variance + (x - line.mean_x) ** 2 * line.variance)
    half = quantile(line.freedom) * error
    axes.fill_between(x, 100 * (height - half), 100 * (height + half), color="0.4", alpha=0.15, linewidth=0)


def _write_names(axes: Axes, names: Sequence[str], x_V: np.ndarray, y_V: np.ndarray) -> None:
    """Where there are many, only of the versions that stand out most in the outcome."""
    shown = len(names) if len(names) <= _ALL_NAMED else _MOST_NAMES
    outstanding = np.argsort(-np.abs(y_V - np.median(y_V)), kind="stable")[:shown]
    middle = (x_V.min() + x_V.max()) / 2
    # In turns above and below, along the metric: neighbours write over each other otherwise.
    for number, index in enumerate(sorted(outstanding, key=lambda index: x_V[index])):
        right = x_V[index] > middle
        axes.annotate(
            names[index], (x_V[index], y_V[index]), (-4 if right else 4, -11 if number % 2 else 4),
            textcoords="offset points", fontsize=_SMALL - 1, ha="right" if right else "left",
        )  # fmt: skip


def forest_figure(rates: Sequence[Rate]) -> Figure | None:
    """One metric's slope in one outcome per domain, with 95 % intervals; hollow: not established.

    None where no domain has a slope.
    """
    shown = [rate for rate in rates if rate.slope is not None]
    if not shown:
        return None
    figure = Figure(figsize=(_WIDTH, 1.3 + 0.34 * len(shown)), layout="constrained")
    axes = figure.subplots()
    unit = unit_of(shown[0].metric)
    for height, rate in enumerate(shown):
        slope, low, high = (
            unit.slope_scale * (limit if limit is not None else rate.slope or 0.0)
            for limit in (rate.slope, rate.ci_low, rate.ci_high)
        )
        axes.errorbar(
            slope, height, xerr=[[slope - low], [high - slope]], fmt="o", capsize=3, color="C0",
            markerfacecolor="C0" if rate.established else "white",
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), [domain_label(rate.domain) for rate in shown], fontsize=_SMALL)
    _finish_rows(axes, len(shown), zero=0.0)
    axes.set_title(metric_label(shown[0].metric), fontsize=_SMALL + 1)
    axes.set_xlabel(
        f"points of {outcome_label(shown[0].outcome)} per {unit.step} of the metric", fontsize=_SMALL
    )
    return figure


def ranking_figure(rates: Sequence[Rate]) -> Figure | None:
    """Metrics of one outcome and domain by their error on left-out versions, that of the mean being 1.

    Hollow bars are not established. Only the first twenty are shown; None where no metric has an error.
    """
    shown = [rate for rate in rates if rate.loo_ratio is not None][:_MOST_METRICS]
    if not shown:
        return None
    figure = Figure(figsize=(_WIDTH, 1.3 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    errors = [rate.loo_ratio or 0.0 for rate in shown]
    axes.barh(
        range(len(shown)), errors, color=["C0" if rate.established else "white" for rate in shown],
        edgecolor="C0", height=0.6,
    )  # fmt: skip
    axes.set_yticks(range(len(shown)), [metric_label(rate.metric) for rate in shown], fontsize=_SMALL)
    _finish_rows(axes, len(shown), zero=1.0)
    axes.set_title(f"{outcome_label(shown[0].outcome)}, {domain_label(shown[0].domain)}", fontsize=_SMALL + 1)
    axes.set_xlabel("error on left-out versions (1: no metric at all)", fontsize=_SMALL)
    return figure


def _finish_rows(axes: Axes, rows: int, *, zero: float) -> None:
    """The line of nothing gained, and the first row on top."""
    axes.axvline(zero, color="0.5", linewidth=0.9, linestyle="--")
    axes.set_ylim(rows - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=_SMALL)
    axes.grid(axis="x", alpha=0.3)
