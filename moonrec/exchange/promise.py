"""What a gain of a metric would be worth if it were like the gains of other versions.

A step whose outcome hardly moved is worth nothing only if the study could have seen what such a gain is worth
elsewhere. The rate is that of the versions of other families than the step's two, so that no version, and no
training, vouches for itself. Where it is established, the step falls short by

    δ = Δy − b Δx,   var δ = var Δy + b² var Δx − 2b cov(Δx, Δy) + Δx² var b,

with Student's t of Satterthwaite's degrees of freedom. The luck of test users that the step shares with the
others is counted twice, which can only widen the interval where it moves versions alike. What versions differ
by beside the metric is not in it: δ is of this step's own worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moonrec.exchange.change import Change
from moonrec.exchange.line import Line
from moonrec.exchange.observations import Metric, Outcome, Versions
from moonrec.exchange.points import points_of
from moonrec.exchange.slope import why_not_established


@dataclass(frozen=True)
class Promise:
    """What the rate of others promises for a step, and how far the step falls short of it.

    Attributes:
        value: of the outcome.
        shortfall: what the step gained minus `value`.
    """

    value: float
    shortfall: Change

    @property
    def excluded(self) -> bool:
        """Whether a gain was promised that the step certainly did not have."""
        _, high = self.shortfall.interval()
        return self.value > 0 and high is not None and high < 0


def line_of_others(metric: Metric, outcome: Outcome, versions: Versions, pair_V: np.ndarray) -> Line | None:
    """The line through the versions of other families than these two; None where it establishes no rate."""
    family_V = np.asarray(versions.families)
    others = points_of(metric, outcome, versions, np.flatnonzero(~np.isin(family_V, family_V[pair_V])))
    line = others.line() if others.has_line() else None
    return line if why_not_established(others, line, outcome) is None else None


def promise_of(others: Line | None, x: Change, y: Change, shared: float) -> Promise | None:
    """None where the others have no rate, or the step's outcome has no interval.

    Args:
        others: their line.
        x: the step's change of the metric; without a known variance it is taken as it is.
        y: its change of the outcome.
        shared: the covariance of both.
    """
    if others is None or others.slope is None or others.variance is None or others.freedom is None:
        return None
    if y.variance is None:
        return None
    value = others.slope * x.value
    of_rate = x.value**2 * others.variance
    known = others.slope**2 * (x.variance or 0.0) - 2 * others.slope * shared
    variance = max(y.variance + known, 0.0) + of_rate
    estimated = y.variance**2 / y.freedom + of_rate**2 / others.freedom
    freedom = variance**2 / estimated if estimated > 0 else np.inf
    return Promise(value, Change(y.value - value, variance, freedom))
