"""Whether a metric grows at all, and whether its growth slows down, asked before any law is believed.

A curve that does not fit would take its own misfit for noise, so the noise is measured about whatever bends
with the points: the power law, or a parabola in log x, which can bend either way, whichever comes closer
(both have three parameters). Three points leave no residual to these; there a straight line stands for them.

Legend: P points, S seeds, D draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from moonrec.scaling.laws import PARAMETERS, Floats, fit
from moonrec.scaling.noise import Noise, limits, noise_about, point_weights

Trend = Literal["rises", "accelerates", "falls", "flat", "too few points"]
_STRAIGHT, _PARABOLA = 2, 3


@dataclass(frozen=True)
class Growth:
    """What the points say without any law.

    Attributes:
        trend: `accelerates` where the metric rises faster and faster with log x.
        noise: of the points' means.
        draws_DP: means as they could have come out, about those measured.
    """

    trend: Trend
    noise: Noise
    draws_DP: Floats


def growth_of(x_P: Floats, value_PS: Floats, draws: int, random: np.random.Generator) -> Growth:
    """Ask both questions.

    Args:
        x_P: positive, increasing, three points at least.
        value_PS: the metric in every cell.
        draws: of the bootstrap.
        random: of the draws.
    """
    mean_P, weight_P = value_PS.mean(1), point_weights(value_PS)
    columns = min(_PARABOLA, len(x_P) - 1)
    curves = [_coefficients(x_P, mean_P[None], weight_P, columns)[0] @ _design(x_P, columns).T]
    if columns == PARAMETERS["power"]:
        curves.append(fit("power", x_P, mean_P[None], weight_P).at(x_P)[0])
    curve_P = min(curves, key=lambda curve_P: float((weight_P * (curve_P - mean_P) ** 2).sum()))
    noise = noise_about(curve_P, columns, value_PS)
    draws_DP = mean_P + noise.draws(draws, random)
    slope_low, slope_high = limits(_coefficients(x_P, draws_DP, weight_P, _STRAIGHT)[:, 1])
    trend: Trend = "rises" if slope_low > 0 else "falls" if slope_high < 0 else "flat"
    if trend == "rises" and columns == _PARABOLA:
        bend_low, _ = limits(_coefficients(x_P, draws_DP, weight_P, _PARABOLA)[:, 2])
        trend = "accelerates" if bend_low > 0 else trend
    return Growth(trend, noise, draws_DP)


def _design(x_P: Floats, columns: int) -> Floats:
    z_P = np.log(x_P) - np.log(x_P).mean()
    return np.vander(z_P / z_P.max(), columns, increasing=True)


def _coefficients(x_P: Floats, y_DP: Floats, weight_P: Floats, columns: int) -> Floats:
    """Weighted least squares of many data sets (D, columns), lowest power of log x first."""
    root_P = np.sqrt(weight_P)
    design_PK = _design(x_P, columns) * root_P[:, None]
    return np.asarray(np.linalg.lstsq(design_PK, (y_DP * root_P).T, rcond=None)[0].T, np.float64)
