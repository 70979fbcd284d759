"""How far two versions are apart in a metric and in the outcome, and what is known of these differences.

Legend: V the two versions, S seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moonrec.exchange.line import quantile
from moonrec.exchange.points import Points


@dataclass(frozen=True)
class Change:
    """A difference, its variance (None: unknown) and the degrees of freedom that this rests on."""

    value: float
    variance: float | None
    freedom: float = np.inf

    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """Its 95 % interval."""
        if self.variance is None:
            return None, None
        half = quantile(self.freedom) * float(np.sqrt(self.variance))
        return self.value - half, self.value + half


def contrast(covariance_VV: np.ndarray) -> float:
    """The variance (or covariance) of the second minus the first."""
    sign_V = np.array([-1.0, 1.0])
    return float(sign_V @ covariance_VV @ sign_V)


def metric_change(points: Points) -> Change:
    """Of the metric, over its test queries, items or users."""
    known = points.metric_noise_known
    variance = max(0.0, contrast(points.noise.metric_VV)) if known else None
    return Change(float(np.diff(points.x_V)[0]), variance)


def outcome_change(points: Points) -> Change:
    """Of the outcome, over seeds and test users.

    The seeds' part is estimated from few numbers, the users' from many: the degrees of freedom are
    Satterthwaite's.
    """
    paired_S = points.y_VS[1] - points.y_VS[0]
    mean, count = float(paired_S.mean()), len(paired_S)
    if count < 2:
        return Change(mean, None)
    seeds = float(paired_S.var(ddof=1)) / count
    variance = seeds + max(0.0, contrast(points.noise.outcome_VV))
    freedom = (count - 1) * (variance / seeds) ** 2 if seeds > 0 else np.inf
    return Change(mean, variance, freedom)
