"""What is told of a scaling study: tables and sentences of every metric, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moonrec.scaling.analysis import Interval
from moonrec.scaling.axis import Axis
from moonrec.scaling.figures import curve_figure
from moonrec.scaling.laws import EXPONENTS, FORMULAS
from moonrec.scaling.results import Curve, Points
from moonrec.study.folder import where
from moonrec.study.sections import KeyFigure, Line, Plot, Section
from moonrec.text_tables import aligned

_MOST_CURVES = 3
_TRENDS: Mapping[str, str] = {
    "rises": "rises",
    "accelerates": "rises, and faster than any law of diminishing returns",
    "falls": "falls",
    "flat": "does not change beyond the noise",
    "too few points": "has too few points for any law",
}


def sections(axis: Axis, points: Points, curves: Sequence[Curve], notes: Sequence[str]) -> list[Section]:
    """Everything that a reader needs, in order.

    Args:
        axis: what was varied.
        points: that were computed.
        curves: through them, one per metric.
        notes: what else must be known of this run.
    """
    return [
        *(_metric_section(axis, curve) for curve in curves),
        _points_section(axis, points),
        _reading_section(len(points.cells[0]), notes),
    ]


def key_figures(curves: Sequence[Curve]) -> list[KeyFigure]:
    """Per metric what the largest point reaches, and what the laws give at twice its x."""
    found: list[KeyFigure] = []
    for curve in curves[:_MOST_CURVES]:
        analysis, x = curve.analysis, f"{curve.x_P[-1]:,.0f}"
        value, _, spread = _mean_text(curve, -1).partition(" ")
        note = "; ".join(filter(None, (spread, _TRENDS[analysis.trend])))
        found.append((f"{curve.metric} at {x}", value, note))
        for law in analysis.drawn_on()[:1]:
            value, _, interval = _shown(analysis.fits[law].beyond).partition(" ")
            found.append((f"{curve.metric} at twice that", value, f"{interval}, if the {law} law holds"))
    return found


def terminal_lines(axis: Axis, curves: Sequence[Curve], notes: Sequence[str], out: Path) -> list[str]:
    """What the command prints: the points, what the laws say, and where the rest stands."""
    cells = [[axis.x_label, *(curve.metric for curve in curves)]]
    for place, x in enumerate(curves[0].x_P):
        cells.append([f"{x:,.0f}", *(_mean_text(curve, place) for curve in curves)])
    return [*aligned(cells), "", *(_verdict(curve) for curve in curves), *notes, *where(out)]


def _mean_text(curve: Curve, place: int) -> str:
    mean = f"{curve.mean_P[place]:.4f}"
    return mean if curve.sd_P is None else f"{mean} ± {curve.sd_P[place]:.4f}"


def _metric_section(axis: Axis, curve: Curve) -> Section:
    """One metric: its points, its laws, and what they say."""
    tables = [("Points", _point_lines(axis, curve))]
    if curve.analysis.fits:
        tables.append(("Laws, with 95 % intervals of the bootstrap", _law_lines(curve)))
    caption = f"{curve.metric} over {axis.x_label}, with 95 % bands"
    plot = Plot(_picture_name(curve), curve_figure(axis, curve), caption)
    return Section(curve.metric, tables, [_verdict(curve), *_warnings(curve)], [plot])


def _picture_name(curve: Curve) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-_" else "-" for letter in curve.metric)


def _points_section(axis: Axis, points: Points) -> Section:
    """What the points are made of, and how x is counted."""
    lines = [
        {
            axis.points_are: f"{setting:,}",
            axis.x_label: f"{points.x_P[place]:,.0f}",
            **{name: _number(value) for name, value in points.facts(place).items()},
        }
        for place, setting in enumerate(points.setting_P)
    ]
    return Section(
        "What was varied", [("Asked for and what it came to, means over seeds", lines)], [axis.reading]
    )


def _reading_section(seeds: int, notes: Sequence[str]) -> Section:
    """How to read the intervals, and what must be known of this run."""
    texts = [
        "Every cell has a seed of its own, at every point another one. Bands are a bootstrap: errors of the "
        "points' means are drawn again (from the spread of seeds, and from the scatter of points about the "
        "law where seeds do not explain it), added to the curve, and the law is fitted again; the draws are "
        "stretched by Student's quantile.",
        "The band is of the curve, on this test set: another test set would move all points together, and a "
        "band holds only if the law does.",
        "A law fits better if it predicts the largest point better when that is held out, beyond the noise, "
        "or else if its AICc is smaller by 2 or more. Nothing is drawn farther than one octave beyond the "
        "largest point.",
    ]
    if seeds == 1:
        texts.insert(
            0,
            "One seed: all noise is judged from how points lie about the law. Train three at least.",
        )
    return Section("How to read this", texts=[*texts, *notes])


def _verdict(curve: Curve) -> str:
    """The result in one or two sentences."""
    analysis = curve.analysis
    parts = [f"{curve.metric} {_TRENDS[analysis.trend]}"]
    if analysis.trend == "rises":
        parts.append(
            f"the {analysis.better} law ({FORMULAS[analysis.better]}) fits better"
            if analysis.better
            else "neither law is known to fit better"
            if len(analysis.fits) > 1
            else "only the log law was fitted"
        )
        parts += [
            f"at twice the largest x the {law} law gives {_shown(analysis.fits[law].beyond)}"
            for law in analysis.drawn_on()
        ]
    return (
        f"{'; '.join(parts)}. ({'; '.join(analysis.reasons)}.)"
        if analysis.reasons
        else f"{'; '.join(parts)}."
    )


def _warnings(curve: Curve) -> list[str]:
    found = []
    if curve.analysis.scatter:
        found.append(
            "Points scatter about the curve more than their seeds explain; the bands allow for it, and fewer "
            "degrees of freedom make them wide."
        )
    power = curve.analysis.fits.get("power")
    c = power.parameters.get("c") if power else None
    if c is not None and c.value < EXPONENTS[0] * 1.01:
        found.append(
            "The exponent c stands at its smallest value: no bend is seen, and a and b mean nothing."
        )
    if c is not None and c.value > EXPONENTS[1] * 0.99:
        found.append(
            "The exponent c stands at its largest value: the curve levels off within the first points."
        )
    return found


def _point_lines(axis: Axis, curve: Curve) -> list[Line]:
    return [
        {
            axis.x_label: f"{x:,.0f}",
            "mean": f"{curve.mean_P[place]:.4f}",
            "sd": "–" if curve.sd_P is None else f"{curve.sd_P[place]:.4f}",
            "seeds": ", ".join(f"{value:.4f}" for value in curve.value_PS[place]),
        }
        for place, x in enumerate(curve.x_P)
    ]


def _law_lines(curve: Curve) -> list[Line]:
    return [
        {
            "law": FORMULAS[law],
            **{
                name: _shown(found.parameters[name]) if name in found.parameters else "–"
                for name in ("a", "b", "c")
            },
            "held-out error": _shown(found.held_out_error, "+"),
            "AICc": "–" if found.aicc is None else f"{found.aicc:.1f}",
        }
        for law, found in curve.analysis.fits.items()
    ]


def _shown(interval: Interval, sign: str = "") -> str:
    return f"{_number(interval.value, sign)} [{_number(interval.low, sign)}, {_number(interval.high, sign)}]"


def _number(value: float, sign: str = "") -> str:
    return (
        f"{value:{sign},.0f}"
        if abs(value) >= 1000
        else f"{value:{sign}.4g}"
        if abs(value) >= 10
        else f"{value:{sign}.4f}"
    )
