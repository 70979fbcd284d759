"""The line through the versions: slope, standard error, degrees of freedom. Numbers only.

With x the true metric of a version, the judge's AUC of version v under seed s is

    y_vs = a + b x_v + u_v + w_s + e_vs + d_v

where u is what the metric does not tell of the version, w a seed's level (the same for all versions, since
they share seeds), e the seed's noise, and d the luck of the test users, with the known covariance Ω. The
metric is seen as X = x + ξ, with the luck ξ of its test queries of known covariance Ξ; C = cov(ξ, d) is not
zero where both are measured on the same users. Every version has every seed, so the mixed model's slope is
that of ordinary least squares on the means over seeds, and w drops out.

Slope: by moments, b = (Sxy − tr HC) / (Sxx − tr HΞ), H = centring. The reliability λ = 1 − tr(HΞ) / Sxx is
the share of the metric's spread that is no luck; luck pulls the least-squares slope towards zero (regression
dilution), and the division takes it back.

Variance: with weights w = HX / (λ Sxx) and Σ = Ω + b²Ξ − b(C + C'),

    var b = σ² w'w + w'Σw + tr((HG)²) / (λ Sxx)²,   G = C − bΞ,

the last term for the luck in x that multiplies itself (W. A. Fuller, Measurement Error Models, 1987,
chapter 1: the same moments). σ², of u and of the mean of e, is what the residual mean square leaves over Σ's
part, or nothing. The variance is never taken to be less than the residual mean square alone says.

Where families have several versions, the variance is also never less than the robust one over families, alone
or, with the known part in place of what that explains of it, beside Σ; see `moonrec.exchange.families`.

Interval: Student's t. Only the residual part is estimated from V − 2 numbers, the rest is known from many
queries and users, so the degrees of freedom are Satterthwaite's, V − 2 where the residuals are all. Where σ²
was cut at zero it hardly varies; its standard deviation is then taken as half of what it would be. That half
is ours, chosen by simulation: with V − 2 there the intervals of 5 to 8 versions cover 99 % and more, without
any, 90 % where scatter and known noise are alike; with it, 94 to 98 % in nearly all that was tried, and 99 %
for 6 versions whose metric has λ about .86. Where families have several versions, it is the number of
families − 1, also beside known noise: where test users are nearly all of the variance, that covers 98 % and
more.

Legend: V versions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from moonrec.exchange.families import family_variance, in_families

CONFIDENCE = 0.95
LEAST_RELIABILITY = 0.5
"""Ours: below it, the correction would more than double the slope, and its own error with it."""


@dataclass(frozen=True)
class Noise:
    """Known sampling covariances over the versions; zeros where nothing is known.

    Attributes:
        outcome_VV: Ω, of the outcome's means over seeds.
        metric_VV: Ξ, of the metric.
        shared_VV: C, of the metric (rows) with the outcome (columns).
    """

    outcome_VV: np.ndarray
    metric_VV: np.ndarray
    shared_VV: np.ndarray


@dataclass(frozen=True)
class Line:
    """A fitted line `mean_y + slope (x − mean_x)`.

    Attributes:
        mean_x: of the versions' metric.
        mean_y: of the versions' outcome.
        slope_ols: by least squares, pulled towards zero by noise of the metric.
        slope: corrected for it; None where the reliability is below `LEAST_RELIABILITY`.
        reliability: λ.
        variance: of the slope; None with fewer than three versions, without a slope, and where versions are
            of too few families to tell.
        level_variance: of the line's height at `mean_x`, apart from what all versions share.
        freedom: degrees of freedom of both.
    """

    mean_x: float
    mean_y: float
    slope_ols: float
    slope: float | None
    reliability: float
    variance: float | None = None
    level_variance: float | None = None
    freedom: float | None = None

    def interval(self) -> tuple[float, float] | None:
        """The slope's 95 % interval; None where it has none."""
        if self.slope is None or self.variance is None or self.freedom is None:
            return None
        half = quantile(self.freedom) * float(np.sqrt(self.variance))
        return self.slope - half, self.slope + half

    def p_value(self) -> float | None:
        """Two-sided, of a slope of zero; None where there is no interval."""
        if self.slope is None or self.variance is None or self.freedom is None:
            return None
        if self.variance == 0:
            return float(self.slope == 0)
        return float(2 * special.stdtr(self.freedom, -abs(self.slope) / np.sqrt(self.variance)))


def quantile(freedom: float) -> float:
    """How many standard errors a 95 % interval reaches to each side."""
    return float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2))


def fit_line(x_V: np.ndarray, y_V: np.ndarray, noise: Noise, family_V: np.ndarray) -> Line:
    """The line through at least two versions whose metrics are not all the same.

    Args:
        x_V: the metric, finite.
        y_V: the outcome's means over seeds, finite.
        noise: what is known of the sampling of both.
        family_V: 0 to the number of families − 1; versions of one family are not independent.
    """
    centred_V, deviation_V = x_V - x_V.mean(), y_V - y_V.mean()
    spread, product = float(centred_V @ centred_V), float(centred_V @ deviation_V)
    reliability = 1 - _centred_trace(noise.metric_VV) / spread
    slope = None
    if reliability >= LEAST_RELIABILITY:
        slope = (product - _centred_trace(noise.shared_VV)) / (reliability * spread)
    line = Line(float(x_V.mean()), float(y_V.mean()), product / spread, slope, reliability)
    if slope is None or len(x_V) < 3:
        return line
    variances = _variances(centred_V, deviation_V - slope * centred_V, slope, reliability, noise)
    if not in_families(family_V):
        return replace(
            line, variance=variances.slope, level_variance=variances.level, freedom=variances.freedom
        )
    sampling_VV = _sampling(noise, slope)
    over_families = family_variance(x_V, y_V, sampling_VV, family_V)
    if over_families is None:
        return line
    dilution = reliability**2
    scatter = max(0.0, over_families.slope - over_families.known) / dilution
    return replace(
        line,
        variance=max(variances.slope, over_families.slope / dilution, scatter + variances.known),
        level_variance=max(variances.level, over_families.level),
        freedom=float(family_V.max()),
    )


@dataclass(frozen=True)
class _Variances:
    """Of the slope, the part of it that is known, of the level, and the degrees of freedom."""

    slope: float
    known: float
    level: float
    freedom: float


def _variances(
    centred_V: np.ndarray, residual_V: np.ndarray, slope: float, reliability: float, noise: Noise
) -> _Variances:
    """Those of independent versions."""
    count, spread = len(centred_V), float(centred_V @ centred_V)
    residual_freedom = count - 2
    mean_square = float(residual_V @ residual_V) / residual_freedom
    sampling_VV = _sampling(noise, slope)
    along_metric = float(centred_V @ sampling_VV @ centred_V) / spread
    expected = max(0.0, _centred_trace(sampling_VV) - along_metric) / residual_freedom
    scatter = max(0.0, mean_square - expected)
    weight_square = 1 / (reliability**2 * spread)
    luck_VV = _centred(noise.shared_VV - slope * noise.metric_VV)
    squared_luck = max(0.0, float(np.trace(luck_VV @ luck_VV))) * weight_square / spread
    known = max(0.0, along_metric) * weight_square + squared_luck
    variance = max(scatter * weight_square + known, mean_square * weight_square)
    estimated = (mean_square if scatter > 0 else expected / 2) * weight_square
    freedom = residual_freedom * max(1.0, variance / estimated) ** 2 if estimated > 0 else residual_freedom
    return _Variances(variance, known, max(mean_square, scatter + expected) / count, freedom)


def _sampling(noise: Noise, slope: float) -> np.ndarray:
    """Σ, of the outcome about a line of this slope."""
    shared_VV = noise.shared_VV + noise.shared_VV.T
    return noise.outcome_VV + slope**2 * noise.metric_VV - slope * shared_VV


def _centred(matrix_VV: np.ndarray) -> np.ndarray:
    return matrix_VV - matrix_VV.mean(axis=0)


def _centred_trace(matrix_VV: np.ndarray) -> float:
    return float(np.trace(_centred(matrix_VV)))
