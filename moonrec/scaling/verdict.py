"""What a study says: growth, gain per doubling, one octave on, and what to doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

from moonrec.scaling.analysis import Interval
from moonrec.scaling.axis import Axis
from moonrec.scaling.laws import EXPONENTS, FORMULAS
from moonrec.scaling.names import readable
from moonrec.scaling.results import Curve
from moonrec.scaling.trend import Trend
from moonrec.study.sections import KeyFigure

_MOST_CURVES = 3
_TRENDS: Mapping[Trend, str] = {
    "rises": "rises",
    "accelerates": "rises, and faster than any law of diminishing returns",
    "falls": "falls",
    "flat": "does not change beyond the noise",
    "too few points": "has too few points for any law",
}
_IN_A_WORD: Mapping[Trend, str] = {"accelerates": "rises ever faster", "too few points": "not known"}


def key_figures(axis: Axis, curves: Sequence[Curve]) -> list[KeyFigure]:
    """Per metric whether it grows, by how much per doubling, and what it may be at twice the largest x."""
    found: list[KeyFigure] = []
    for curve in curves[:_MOST_CURVES]:
        name, analysis = readable(curve.metric), curve.analysis
        reached = f"{mean_text(curve, -1)} at {curve.x_P[-1]:,.0f}"
        word = _IN_A_WORD.get(analysis.trend, analysis.trend)
        found.append((f"{name} over {axis.x_label}", word, reached))
        if "log" in analysis.fits:
            value, _, limits = shown(_per_doubling(curve), "+").partition(" ")
            found.append((f"{name} per doubling", value, f"95 % {limits}, mean over the points"))
        if laws := analysis.drawn_on():
            beyond = analysis.told_beyond()
            values = sorted({number(analysis.fits[law].beyond.value) for law in laws})
            limits = f"95 % [{number(beyond.low)}, {number(beyond.high)}]"
            which = f"if the {laws[0]} law holds" if len(laws) == 1 else "of both laws"
            label = f"{name} at {analysis.x_G[-1]:,.0f}, not measured"
            found.append((label, " to ".join(values), f"{limits}, {which}"))
    return found


def verdict(curve: Curve) -> str:
    """The result in one or two sentences."""
    analysis = curve.analysis
    parts = [f"{readable(curve.metric)} {_TRENDS[analysis.trend]}"]
    if analysis.trend == "rises":
        parts.append(
            f"the {analysis.better} law ({FORMULAS[analysis.better]}) fits better"
            if analysis.better
            else "neither law is known to fit better"
            if len(analysis.fits) > 1
            else "only the log law was fitted, which promises too much where growth slows down"
        )
        parts += [
            f"at twice the largest x the {law} law gives {shown(analysis.fits[law].beyond)}"
            for law in analysis.drawn_on()
        ]
    reasons = f" ({'; '.join(analysis.reasons)}.)" if analysis.reasons else ""
    return f"{'; '.join(parts)}.{reasons}"


def doubts(curve: Curve) -> list[str]:
    """What makes a metric's laws less than they seem."""
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


def warnings(curves: Sequence[Curve]) -> list[str]:
    """What to know before any number: too few seeds, and what to doubt of each metric."""
    found = [f"{readable(curve.metric)}: {text}" for curve in curves for text in doubts(curve)]
    if curves[0].value_PS.shape[1] == 1:
        found.insert(
            0, "One seed: all noise is judged from how points lie about the law. Train three at least."
        )
    return found


def mean_text(curve: Curve, place: int) -> str:
    """A point's mean, and its standard deviation where there are seeds."""
    mean = f"{curve.mean_P[place]:.4f}"
    return mean if curve.sd_P is None else f"{mean} ± {curve.sd_P[place]:.4f}"


def shown(interval: Interval, sign: str = "") -> str:
    """`value [low, high]`."""
    return f"{number(interval.value, sign)} [{number(interval.low, sign)}, {number(interval.high, sign)}]"


def number(value: float, sign: str = "") -> str:
    """With as many digits as a reader can use of a metric or a law's parameter."""
    if abs(value) >= 1000:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}.4g}" if abs(value) >= 10 else f"{value:{sign}.4f}"


def _per_doubling(curve: Curve) -> Interval:
    slope = curve.analysis.fits["log"].parameters["b"]
    return Interval(slope.value * log(2), slope.low * log(2), slope.high * log(2))
