"""Pages and tables of a scaling study: what it says, the plots, the points, and how to read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moonrec.scaling.axis import Axis
from moonrec.scaling.figures import curve_figure
from moonrec.scaling.laws import FORMULAS
from moonrec.scaling.names import file_name, readable
from moonrec.scaling.results import Curve, Points
from moonrec.scaling.verdict import mean_text, number, shown, verdict
from moonrec.study.folder import where
from moonrec.study.sections import Line, Plot, Section
from moonrec.text_tables import aligned


def sections(axis: Axis, points: Points, curves: Sequence[Curve]) -> list[Section]:
    """Everything that a reader needs, in order: per metric the answer, its plot and its tables.

    Args:
        axis: what was varied.
        points: that were computed.
        curves: through them, one per metric.
    """
    parts = [part for curve in curves for part in _metric_sections(axis, curve)]
    return [*parts, _points_section(axis, points), _reading_section()]


def terminal_lines(axis: Axis, curves: Sequence[Curve], notes: Sequence[str], out: Path) -> list[str]:
    """What the command prints: the points, what the laws say, and where the rest stands."""
    cells = [[axis.x_label, *(readable(curve.metric) for curve in curves)]]
    for place, x in enumerate(curves[0].x_P):
        cells.append([f"{x:,.0f}", *(mean_text(curve, place) for curve in curves)])
    return [*aligned(cells), "", *(verdict(curve) for curve in curves), *notes, *where(out)]


def _metric_sections(axis: Axis, curve: Curve) -> list[Section]:
    """The answer with its plot, then the tables behind it."""
    name = readable(curve.metric)
    caption = f"{name} over {axis.x_label}, with 95 % bands"
    plot = Plot(file_name(curve.metric), curve_figure(axis, curve), caption)
    tables = [("Points, means over seeds", _point_lines(axis, curve))]
    folded = [("Every seed", _seed_lines(axis, curve))]
    if curve.analysis.fits:
        tables.append(("Laws, with 95 % intervals of the bootstrap", _law_lines(curve)))
        folded.append(("Akaike's criterion, corrected for few observations", _aicc_lines(curve)))
    return [
        Section(name, texts=[verdict(curve)], plots=[plot]),
        Section(f"{name}: points and laws", tables, folded=folded),
    ]


def _points_section(axis: Axis, points: Points) -> Section:
    """What the points are made of, and how x is counted."""
    lines = [
        {
            axis.points_are: f"{setting:,}",
            axis.x_label: f"{points.x_P[place]:,.0f}",
            **{name: _fact(value) for name, value in points.facts(place).items()},
        }
        for place, setting in enumerate(points.setting_P)
    ]
    return Section(
        "What was varied", [("Asked for and what it came to, means over seeds", lines)], [axis.reading]
    )


def _reading_section() -> Section:
    """How to read the intervals."""
    return Section(
        "How to read this",
        texts=[
            "Every cell has a seed of its own, at every point another one. Bands are a bootstrap: errors of "
            "the points' means are drawn again (from the spread of seeds, and from the scatter of points "
            "about the law where seeds do not explain it), added to the curve, and the law is fitted again; "
            "the draws are stretched by Student's quantile.",
            "The band is of the curve, on this test set: another test set would move all points together, "
            "and a band holds only if the law does.",
            "A law fits better if it predicts the largest point better when that is held out, beyond the "
            "noise; the power law also if its AICc is smaller by 2 or more, which shows a bend. A missing "
            "bend does not speak for the log law: where none is seen the laws cannot be told apart, and both "
            "are drawn. Nothing is drawn farther than one octave beyond the largest point.",
        ],
    )


def _point_lines(axis: Axis, curve: Curve) -> list[Line]:
    return [
        {
            axis.x_label: f"{x:,.0f}",
            "mean": f"{curve.mean_P[place]:.4f}",
            "sd": "–" if curve.sd_P is None else f"{curve.sd_P[place]:.4f}",
        }
        for place, x in enumerate(curve.x_P)
    ]


def _seed_lines(axis: Axis, curve: Curve) -> list[Line]:
    return [
        {
            axis.x_label: f"{x:,.0f}",
            **{f"seed {seed}": f"{value:.4f}" for seed, value in enumerate(curve.value_PS[place])},
        }
        for place, x in enumerate(curve.x_P)
    ]


def _law_lines(curve: Curve) -> list[Line]:
    return [
        {
            "law": FORMULAS[law],
            **{
                name: shown(found.parameters[name]) if name in found.parameters else "–"
                for name in ("a", "b", "c")
            },
            "held-out error": shown(found.held_out_error, "+"),
        }
        for law, found in curve.analysis.fits.items()
    ]


def _aicc_lines(curve: Curve) -> list[Line]:
    return [
        {"law": FORMULAS[law], "AICc": "–" if found.aicc is None else f"{found.aicc:.1f}"}
        for law, found in curve.analysis.fits.items()
    ]


def _fact(value: float) -> str:
    """Counts as they are, other numbers with two digits at least."""
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return number(value) if abs(value) >= 10 else f"{value:.2g}"
