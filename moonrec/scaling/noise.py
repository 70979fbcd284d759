"""How far the points' means would move if all were done again, estimated from seeds and from residuals.

Two sources: seeds, whose variance is pooled over the points (three seeds say little of one point's own), and
a scatter of points about the curve that seeds do not explain. Whether there is such a scatter is asked by an
F test at the level .25, below which the two estimates are pooled (the rule of Bancroft, Ann. Math. Stat. 15,
1944, with the level that Bancroft and Han found to cost least): a handful of points is too few to estimate it
each time. With a single seed there are residuals alone, and they are taken for normal.

Every draw is stretched by the ratio of Student's to the normal quantile, so that the 2.5 % and 97.5 %
quantiles of whatever is computed from the draws honour how few numbers the variance was estimated from.

Legend: P points, S seeds, D draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from moonrec.scaling.laws import Floats

CONFIDENCE = 0.95
_POOLING_LEVEL = 0.25
# As if the pooled variance had been seen in so many more cells of a point. Ours.
_PRIOR_DEGREES = 10.0


@dataclass(frozen=True)
class Noise:
    """Of the points' means about a curve.

    Attributes:
        scatter: whether points scatter more than their seeds explain (always with a single seed).
        degrees: degrees of freedom of the variance.
        residual_P: what is left of the means after the curve, scaled to the variance of what was fitted.
        standard_N: seed deviations of all cells, standardised; empty with a single seed.
        seed_error_P: standard error of a point's mean from its seeds.
        scatter_error: standard deviation of the points' own scatter.
    """

    scatter: bool
    degrees: int
    residual_P: Floats
    standard_N: Floats
    seed_error_P: Floats
    scatter_error: float
    seeds: int

    def draws(self, count: int, random: np.random.Generator) -> Floats:
        """(D, P) errors of the means, stretched as told above."""
        points = len(self.residual_P)
        stretch = stats.t.ppf((1 + CONFIDENCE) / 2, self.degrees) / stats.norm.ppf((1 + CONFIDENCE) / 2)
        error_DP = np.zeros((count, points))
        if self.seeds == 1:
            error_DP += self.scatter_error * random.standard_normal((count, points))
        elif len(self.standard_N):
            drawn_DPS = random.choice(self.standard_N, (count, points, self.seeds))
            error_DP += drawn_DPS.mean(2) * np.sqrt(self.seeds) * self.seed_error_P
        if self.seeds > 1 and self.scatter_error > 0:
            spread = float(np.sqrt((self.residual_P**2).mean()))
            error_DP += random.choice(self.residual_P, (count, points)) * (self.scatter_error / spread)
        return stretch * error_DP


def point_weights(value_PS: Floats) -> Floats:
    """Inverse variances of the points' means, up to a factor: each point's own seed variance, shrunk hard
    towards the mean of all, since it was seen in a few cells only. All alike with a single seed."""
    return 1.0 / shrunk_variances(value_PS) if value_PS.shape[1] > 1 else np.ones(len(value_PS))


def shrunk_variances(value_PS: Floats) -> Floats:
    """Per point the variance over seeds, shrunk to the pooled one; ones where no seed differs anywhere."""
    own_P = value_PS.var(1, ddof=1)
    pooled = own_P.mean()
    if pooled == 0:
        return np.ones(len(value_PS))
    degrees = value_PS.shape[1] - 1
    found_P: Floats = (_PRIOR_DEGREES * pooled + degrees * own_P) / (_PRIOR_DEGREES + degrees)
    return found_P


def limits(value_DG: Floats) -> Floats:
    """The 95 % limits (2, G) of draws."""
    tail = (1 - CONFIDENCE) / 2
    found: Floats = np.quantile(value_DG, [tail, 1 - tail], axis=0)
    return found


def noise_about(curve_P: Floats, parameters: int, value_PS: Floats) -> Noise:
    """The noise of the means about a fitted curve.

    Args:
        curve_P: its values at the points.
        parameters: that were fitted, fewer than there are points.
        value_PS: the cells.
    """
    points, seeds = value_PS.shape
    weight_P = point_weights(value_PS)
    mean_P = value_PS.mean(1)
    residual_P = mean_P - curve_P
    free = points - parameters
    scaled_P = residual_P * np.sqrt(points / free)
    residual_variance = float((weight_P / weight_P.mean() * residual_P**2).sum() / free)
    if seeds == 1:
        root = float(np.sqrt(residual_variance))
        return Noise(True, free, scaled_P, np.zeros(0), np.zeros(points), root, seeds)
    within = float(value_PS.var(1, ddof=1).mean())
    of_mean, degrees = within / seeds, points * (seeds - 1)
    if of_mean == 0:
        scatter = residual_variance > 0
    else:
        scatter = bool(stats.f.sf(residual_variance / of_mean, free, degrees) < _POOLING_LEVEL)
    deviation_N = ((value_PS - mean_P[:, None]) * np.sqrt(seeds / (seeds - 1))).ravel()
    standard_N = deviation_N / np.sqrt(within) if within > 0 else np.zeros(0)
    relative_P = shrunk_variances(value_PS) / within if within > 0 else np.zeros(points)
    if scatter:
        seed_error_P = np.sqrt(of_mean * relative_P)
        extra = float(np.sqrt(max(0.0, residual_variance - of_mean)))
        return Noise(True, free, scaled_P, standard_N, seed_error_P, extra, seeds)
    pooled = (degrees * of_mean + free * residual_variance) / (degrees + free)
    return Noise(False, degrees + free, scaled_P, standard_N, np.sqrt(pooled * relative_P), 0.0, seeds)
