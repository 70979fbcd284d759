"""The exchange rate of one metric: how much CTR AUC a version has more per unit of the metric.

MOON Embedding (https://arxiv.org/abs/2511.11305) calls the gain of the CTR model's AUC over the gain of an
intermediate metric the exchange rate. It gives no estimator; ours is the slope over encoder versions, see
`moonrec.exchange.line`.

Legend: V versions, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from moonrec.exchange.families import LEAST_FAMILIES, in_families
from moonrec.exchange.held_out import HeldOut, held_out, slope_changes
from moonrec.exchange.line import Line
from moonrec.exchange.observations import Metric, Outcome, Versions
from moonrec.exchange.points import Points, constant, points_of

LEAST_VERSIONS = 5


@dataclass(frozen=True)
class Rate:
    """What a metric is worth in an outcome; None where a number is undefined.

    Attributes:
        metric: its name.
        domain: `all` or a category.
        outcome: `auc` or `gauc`.
        slope: outcome per unit of the metric, corrected for the metric's sampling noise.
        ci_low: of the slope's 95 % interval.
        ci_high: likewise.
        slope_ols: least squares, not corrected.
        p: two-sided, of a slope of zero.
        p_holm: over all metrics of the same outcome and domain; set where they are compared.
        r2: squared correlation of the metric with the outcome's means over seeds.
        spearman: their rank correlation.
        loo_error: root mean square error of predicting a left-out version, in units of the outcome; where
            families have several versions, a family is left out whole. None with one family.
        loo_error_mean: likewise by the mean of the other versions, which knows no metric.
        loo_ratio: the first over the second; where metrics are compared, on the versions that they share.
        points: versions that have both.
        seeds: that all of these have.
        families: of these versions; where they are fewer, the interval rests on them.
        reliability: the share of the metric's spread over versions that is not sampling noise; None where
            the noise is not known.
        established: the interval excludes zero, over enough versions.
        why_not: in words, where it is not.
        most_influential: the version, or the training of several, without which the slope changes most.
        slope_without_it: corrected likewise.
        established_without_it: whether the rate would still be.
        overrated: the version whose outcome lies farthest below what the others' line predicts for it.
        overrated_by: how far, in units of the outcome.
    """

    metric: str
    domain: str
    outcome: str
    slope: float | None
    ci_low: float | None
    ci_high: float | None
    slope_ols: float | None
    p: float | None
    p_holm: float | None
    r2: float | None
    spearman: float | None
    loo_error: float | None
    loo_error_mean: float | None
    loo_ratio: float | None
    points: int
    seeds: int
    families: int
    reliability: float | None
    established: bool
    why_not: str | None
    most_influential: str | None
    slope_without_it: float | None
    established_without_it: bool | None
    overrated: str | None
    overrated_by: float | None

    def to_dict(self) -> dict[str, Any]:
        """As `metrics.json` holds it."""
        return asdict(self)


def exchange_rate(metric: Metric, outcome: Outcome, versions: Versions) -> Rate:
    """What a unit of `metric` is worth in `outcome`, over the versions that have both.

    Raises:
        ValueError: metric and outcome are not of the same domain, or not of these versions.
    """
    if metric.domain != outcome.domain:
        raise ValueError(f"metric of domain {metric.domain}, outcome of domain {outcome.domain}")
    if not len(metric.value_V) == len(outcome.value_VS) == len(versions.names):
        raise ValueError(f"{metric.name}, {outcome.name}: not of {len(versions.names)} versions")
    points = points_of(metric, outcome, versions)
    line = points.line() if points.has_line() else None
    interval = line.interval() if line else None
    why_not = why_not_established(points, line, outcome)
    names = [versions.names[row] for row in points.row_V]
    return Rate(
        metric=metric.name,
        domain=metric.domain,
        outcome=outcome.name,
        slope=line.slope if line else None,
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        slope_ols=line.slope_ols if line else None,
        p=line.p_value() if line else None,
        p_holm=None,
        **_association(points),
        **_prediction(points, names),
        **_influence(points, names, versions, outcome),
        points=len(points.row_V),
        seeds=points.y_VS.shape[1],
        families=points.families,
        reliability=line.reliability if line and points.metric_noise_known else None,
        established=why_not is None,
        why_not=why_not,
    )


def why_not_established(points: Points, line: Line | None, outcome: Outcome) -> str | None:
    """What a rate lacks, in words; None where it is established."""
    if not np.isfinite(outcome.value_VS).any():
        return f"{outcome.name} is undefined in this domain"
    if len(points.row_V) < LEAST_VERSIONS:
        return f"{len(points.row_V)} versions have it and {outcome.name}, {LEAST_VERSIONS} are needed"
    if line is None:
        return "the metric is the same for every version"
    if line.slope is None:
        return "the versions differ in this metric by little more than sampling noise"
    if in_families(points.family_V) and points.families < LEAST_FAMILIES:
        trainings = "1 training" if points.families == 1 else f"{points.families} trainings"
        return f"all versions come from {trainings}, whose checkpoints are not independent"
    interval = line.interval()
    if interval is None:
        return "without one of the trainings the metric is the same for every version"
    low, high = interval
    return None if low > 0 or high < 0 else "the interval of the slope covers zero"


def _association(points: Points) -> dict[str, Any]:
    if not points.has_line() or constant(points.mean_V):
        return {"r2": None, "spearman": None}
    correlation = float(np.corrcoef(points.x_V, points.mean_V)[0, 1])
    return {"r2": correlation**2, "spearman": float(stats.spearmanr(points.x_V, points.mean_V).statistic)}


def _prediction(points: Points, names: Sequence[str]) -> dict[str, Any]:
    """Errors on left-out versions, and the versions that stand out."""
    found = left_out(points)
    if found is None:
        return dict.fromkeys(("loo_error", "loo_error_mean", "loo_ratio", "overrated", "overrated_by"))
    lowest = int(np.argmin(found.error_V))
    overrated = found.error_V[lowest] < 0
    return {
        "loo_error": found.error,
        "loo_error_mean": found.mean_error,
        "loo_ratio": found.ratio,
        "overrated": names[lowest] if overrated else None,
        "overrated_by": -float(found.error_V[lowest]) if overrated else None,
    }


def left_out(points: Points) -> HeldOut | None:
    """Each family left out in turn; None with one family, fewer than three versions, or without a line."""
    if len(points.row_V) < 3 or points.families < 2 or not points.has_line():
        return None
    return held_out(points.x_V, points.mean_V, points.family_V)


def _influence(points: Points, names: Sequence[str], versions: Versions, outcome: Outcome) -> dict[str, Any]:
    """What happens without the training, or the version, on which the slope hangs most."""
    if len(names) < 3 or not points.has_line():
        return dict.fromkeys(("most_influential", "slope_without_it", "established_without_it"))
    # Checkpoints of one training stand in for each other: without one of them little would change.
    together = points.families > 1
    group_V = points.family_V if together else np.arange(len(names))
    group = int(np.argmax(np.abs(slope_changes(points.x_V, points.mean_V, group_V))))
    members = np.flatnonzero(group_V == group)
    others = points.without(group_V, group)
    line = others.line() if others.has_line() else None
    return {
        "most_influential": names[members[0]]
        if len(members) == 1
        else versions.families[points.row_V[members[0]]],
        "slope_without_it": line.slope if line else None,
        "established_without_it": why_not_established(others, line, outcome) is None,
    }
