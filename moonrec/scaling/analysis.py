"""One metric over one axis: both laws with their bands, which fits better, and how far it may be drawn on.

Bands are a bootstrap: errors of the points' means (`moonrec.scaling.noise`) are added to the fitted curve,
the law is fitted again, and the 2.5 % and 97.5 % quantiles of the curves are taken at every place. The
largest point is held out once: the law is fitted without it and asked for it. A law fits better when the
bootstrap interval of the difference of the two held-out errors lies on one side of zero. Otherwise the power
law does when its AICc is smaller by 2 or more (the usual threshold of Burnham and Anderson, 2002). The
reverse says nothing for the log law: it is the power law without a bend, so wherever the bend cannot be seen
its AICc is smaller by the mere penalty of a parameter, whichever is true. Then the laws cannot be told apart,
and both are drawn on.

Legend: P points, S seeds, D draws, G places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moonrec.scaling.laws import FEWEST_POINTS, LAWS, PARAMETERS, Curves, Floats, Law, fit
from moonrec.scaling.noise import limits, noise_about, point_weights
from moonrec.scaling.trend import Growth, Trend, growth_of

OCTAVES_OUT = 1
"""Beyond the largest point nothing is known; one doubling is as far as a band is given."""
_DRAWS, _PLACES, _PLACES_BEYOND, _AICC_THRESHOLD = 1_000, 81, 17, 2.0
# Below, the correction for few observations outweighs what they say of a third parameter. Ours.
_AICC_SPARE = 3
_NO_LAW: dict[Trend, str] = {
    "flat": "the interval of the slope over log x covers zero: no scaling seen",
    "falls": "the metric falls with x, so there is no law of diminishing returns to find",
    "accelerates": "the metric rises faster and faster with log x, which neither law can: it is not drawn on",
}


@dataclass(frozen=True)
class Interval:
    """A number with the 95 % interval of the bootstrap."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """One law.

    Attributes:
        parameters: a, b and, for the power law, c; c is missing where the curve is flat.
        curve_3G: value, low and high at the places of `Analysis.x_G`.
        held_out_error: predicted minus measured at the largest point, of the fit without it.
        aicc: Akaike's criterion, corrected for few observations; None where these are too few for it.
        beyond: at twice the largest x.
    """

    parameters: dict[str, Interval]
    curve_3G: Floats
    held_out_error: Interval
    aicc: float | None
    beyond: Interval


@dataclass(frozen=True)
class Analysis:
    """What the points say.

    Attributes:
        x_G: places at which curves are known, from the smallest x to twice the largest.
        fits: those that there are points enough for.
        trend: of the metric with x (`moonrec.scaling.trend`).
        better: None where there is no difference, or nothing to compare.
        reasons: in words, why `better` and `trend` are what they are, and what could not be fitted.
        scatter: whether points scatter more than their seeds explain; None with a single seed.
    """

    x_G: Floats
    fits: dict[Law, Fit]
    trend: Trend
    better: Law | None
    reasons: list[str]
    scatter: bool | None

    def drawn_on(self) -> list[Law]:
        """The laws that are extrapolated: the better one, both where there is no difference, none where
        there is no growth to go on."""
        if self.trend != "rises":
            return []
        return [self.better] if self.better else list(self.fits)

    def told_beyond(self) -> Interval:
        """At twice the largest x, with limits that hold whichever of the laws drawn on is true.

        Raises:
            ValueError: no law is drawn on.
        """
        beyond = [self.fits[law].beyond for law in self.drawn_on()]
        if not beyond:
            raise ValueError(f"nothing is drawn on: {self.trend}")
        middle = float(np.mean([one.value for one in beyond]))
        return Interval(middle, min(one.low for one in beyond), max(one.high for one in beyond))


def analyse(x_P: Floats, value_PS: Floats, seed: int = 0) -> Analysis:
    """Fit, compare and extrapolate.

    Args:
        x_P: positive, increasing.
        value_PS: the metric in every cell.
        seed: of the bootstrap.
    """
    x_P, value_PS = np.asarray(x_P, float), np.asarray(value_PS, float)
    if not (np.diff(x_P) > 0).all() or x_P[0] <= 0:
        raise ValueError(f"points {x_P.tolist()}: expected positive, increasing ones")
    x_G = _places(x_P)
    laws = [law for law in LAWS if len(x_P) >= FEWEST_POINTS[law]]
    reasons = [
        f"{len(x_P)} points are too few for the {law} law, which needs {FEWEST_POINTS[law]}"
        for law in LAWS
        if law not in laws
    ]
    if not laws:
        return Analysis(x_G, {}, "too few points", None, reasons, None)
    growth = growth_of(x_P, value_PS, _DRAWS, np.random.default_rng((seed, 1)))
    fits = {law: _fit(law, x_P, value_PS, x_G, growth, seed) for law in laws}
    better: Law | None = None
    if growth.trend != "rises":
        reasons.append(_NO_LAW[growth.trend])
    elif len(laws) == len(LAWS):
        better, why = _better(fits, x_P, value_PS, growth)
        reasons.append(why)
    scatter = growth.noise.scatter if value_PS.shape[1] > 1 else None
    return Analysis(x_G, fits, growth.trend, better, reasons, scatter)


def _places(x_P: Floats) -> Floats:
    """Two runs of places that meet exactly at the largest point, where lines of the fit end."""
    inside_G = np.geomspace(x_P[0], x_P[-1], _PLACES)
    beyond_G = np.geomspace(x_P[-1], x_P[-1] * 2.0**OCTAVES_OUT, _PLACES_BEYOND)
    return np.concatenate([inside_G[:-1], x_P[-1:], beyond_G[1:]])


def _fit(law: Law, x_P: Floats, value_PS: Floats, x_G: Floats, growth: Growth, seed: int) -> Fit:
    weight_P, mean_P = point_weights(value_PS), value_PS.mean(1)
    fitted = fit(law, x_P, mean_P[None], weight_P)
    curve_P = fitted.at(x_P)[0]
    random = np.random.default_rng((seed, 0, PARAMETERS[law]))
    errors_DP = noise_about(curve_P, PARAMETERS[law], value_PS).draws(_DRAWS, random)
    drawn = fit(law, x_P, curve_P + errors_DP, weight_P)
    curve_3G = np.vstack([fitted.at(x_G), limits(drawn.at(x_G))])
    error = held_out_error(law, x_P, mean_P[None], weight_P)[0]
    observed_PS = mean_P[:, None] if growth.noise.scatter else value_PS
    return Fit(
        parameters=_parameters(fitted, drawn),
        curve_3G=curve_3G,
        held_out_error=_interval(error, held_out_error(law, x_P, growth.draws_DP, weight_P)),
        aicc=_aicc(law, observed_PS, curve_P),
        beyond=Interval(*curve_3G[:, -1].tolist()),
    )


def held_out_error(law: Law, x_P: Floats, y_DP: Floats, weight_P: Floats) -> Floats:
    """Predicted minus measured at the last point (D), of fits to all points but that."""
    without = fit(law, x_P[:-1], y_DP[:, :-1], weight_P[:-1])
    return without.at(x_P[-1:])[:, 0] - y_DP[:, -1]


def _interval(value: float, drawn_D: Floats) -> Interval:
    low, high = limits(drawn_D)
    return Interval(float(value), float(low), float(high))


def _parameters(fitted: Curves, drawn: Curves) -> dict[str, Interval]:
    found, draws = fitted.parameters(), drawn.parameters()
    return {
        name: _interval(value_D[0], draws[name][~np.isnan(draws[name])])
        for name, value_D in found.items()
        if not np.isnan(value_D[0])
    }


def _aicc(law: Law, value_PS: Floats, fitted_P: Floats) -> float | None:
    """Of normal errors; over points' means where these scatter more than their seeds explain."""
    observations, parameters = value_PS.size, PARAMETERS[law] + 1
    squares = float(((value_PS - fitted_P[:, None]) ** 2).sum())
    spare = observations - parameters - 1
    if spare < _AICC_SPARE or squares <= 0:
        return None
    penalty = 2 * parameters * (1 + (parameters + 1) / spare)
    return float(observations * np.log(squares / observations) + penalty)


def _better(fits: dict[Law, Fit], x_P: Floats, value_PS: Floats, growth: Growth) -> tuple[Law | None, str]:
    """Both laws are held to the same draws about the measured means, which belong to neither."""
    weight_P = point_weights(value_PS)
    missed = {law: np.abs(held_out_error(law, x_P, growth.draws_DP, weight_P)) for law in LAWS}
    low, high = limits(missed["power"] - missed["log"])
    if low > 0 or high < 0:
        law: Law = "log" if low > 0 else "power"
        return law, f"the {law} law predicts the held-out largest point better, beyond the noise"
    power, log = fits["power"].aicc, fits["log"].aicc
    same = "the held-out errors of both laws do not differ beyond the noise"
    if power is None or log is None:
        return None, f"{same}, and there are too few observations for AICc: the laws cannot be told apart"
    if log - power >= _AICC_THRESHOLD:
        return "power", f"{same}; AICc is smaller by {log - power:.1f} for the power law"
    return None, f"{same}, and no bend is seen: the laws cannot be told apart"
