"""One step from a version to another: "we improved recall by 5 points, what is it worth?"

A step asks about these two versions, not about versions like them: what moves its numbers are the judge's
seeds, the test users and the test queries. Differences are paired by all three. With one step alone, the rate
is a ratio of two noisy numbers; its interval is Fieller's (Journal of the Royal Statistical Society B 16,
1954), which is unbounded where the metric's own difference is not told from zero.

That a gain of the metric shows no gain of the outcome is no evidence that it is worth nothing. This is said
only of a step whose outcome fell short of what other versions promise; see `moonrec.exchange.promise`.

Legend: V versions, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moonrec.exchange.change import Change, contrast, metric_change, outcome_change
from moonrec.exchange.line import Line, quantile
from moonrec.exchange.observations import Metric, Outcome, Versions, lower_is_better
from moonrec.exchange.points import Points, points_of
from moonrec.exchange.promise import Promise, line_of_others, promise_of
from moonrec.exchange.words import outcome_label


@dataclass(frozen=True)
class Step:
    """What changed from `before` to `after`; None where a number is undefined.

    Attributes:
        before: a version.
        after: another one.
        metric: a metric's name.
        domain: `all` or a category.
        outcome: `auc` or `gauc`.
        metric_difference: after − before.
        metric_ci_low: of its 95 % interval over test queries, items or users.
        metric_ci_high: likewise.
        outcome_difference: after − before, of means over seeds.
        outcome_ci_low: of its 95 % interval over seeds and test users.
        outcome_ci_high: likewise.
        rate: outcome_difference / metric_difference.
        rate_ci_low: of Fieller's 95 % interval; None where it is unbounded.
        rate_ci_high: likewise.
        promised: what the gain of the metric would be worth at the rate of the versions of other families;
            None where these establish none.
        shortfall: outcome_difference − promised.
        shortfall_ci_low: of its 95 % interval, over all of the above and the error of the rate.
        shortfall_ci_high: likewise.
        seeds: of the judge.
        verdict: in words.
    """

    before: str
    after: str
    metric: str
    domain: str
    outcome: str
    metric_difference: float
    metric_ci_low: float | None
    metric_ci_high: float | None
    outcome_difference: float
    outcome_ci_low: float | None
    outcome_ci_high: float | None
    rate: float | None
    rate_ci_low: float | None
    rate_ci_high: float | None
    promised: float | None
    shortfall: float | None
    shortfall_ci_low: float | None
    shortfall_ci_high: float | None
    seeds: int
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """As `metrics.json` holds it."""
        return asdict(self)


def steps(
    metrics: Sequence[Metric],
    outcomes: Sequence[Outcome],
    versions: Versions,
    pairs: Sequence[tuple[str, str]],
) -> list[Step]:
    """Every metric and outcome of the same domain for every pair (before, after) that has both.

    Raises:
        ValueError: a pair names a version that is not there, or one version twice.
    """
    row_of = {name: row for row, name in enumerate(versions.names)}
    for before, after in pairs:
        if before == after or not {before, after} <= row_of.keys():
            raise ValueError(f"{before}:{after}: expected two of {', '.join(row_of)}")
    found = []
    for pair in pairs:
        among_V = np.array([row_of[name] for name in pair])
        for outcome in outcomes:
            for metric in metrics:
                if metric.domain != outcome.domain:
                    continue
                points = points_of(metric, outcome, versions, among_V)
                if len(points.row_V) == 2:
                    others = line_of_others(metric, outcome, versions, among_V)
                    found.append(_step(metric, outcome, points, others, pair))
    return found


def _step(
    metric: Metric, outcome: Outcome, points: Points, others: Line | None, pair: tuple[str, str]
) -> Step:
    x, y = metric_change(points), outcome_change(points)
    shared = contrast(points.noise.shared_VV)
    rate, limits = _rate(x, y, shared)
    promise = promise_of(others, x, y, shared)
    direction = -1 if lower_is_better(metric.name) else 1
    metric_low, metric_high = x.interval()
    outcome_low, outcome_high = y.interval()
    return Step(
        before=pair[0],
        after=pair[1],
        metric=metric.name,
        domain=metric.domain,
        outcome=outcome.name,
        metric_difference=x.value,
        metric_ci_low=metric_low,
        metric_ci_high=metric_high,
        outcome_difference=y.value,
        outcome_ci_low=outcome_low,
        outcome_ci_high=outcome_high,
        rate=rate,
        rate_ci_low=limits[0],
        rate_ci_high=limits[1],
        promised=promise.value if promise else None,
        shortfall=promise.shortfall.value if promise else None,
        shortfall_ci_low=promise.shortfall.interval()[0] if promise else None,
        shortfall_ci_high=promise.shortfall.interval()[1] if promise else None,
        seeds=points.y_VS.shape[1],
        verdict=_verdict(x, y, promise, outcome_label(outcome.name), direction),
    )


def _rate(
    x: Change, y: Change, shared: float
) -> tuple[float | None, tuple[float, float] | tuple[None, None]]:
    """The ratio of two changes and Fieller's interval: all ratios that the data do not refuse."""
    if x.value == 0:
        return None, (None, None)
    ratio = y.value / x.value
    if x.variance is None or y.variance is None:
        return ratio, (None, None)
    square = quantile(y.freedom) ** 2
    a = x.value**2 - square * x.variance
    if a <= 0:
        return ratio, (None, None)
    b = x.value * y.value - square * shared
    c = y.value**2 - square * y.variance
    half = float(np.sqrt(max(0.0, b * b - a * c)))
    return ratio, ((b - half) / a, (b + half) / a)


def _verdict(x: Change, y: Change, promise: Promise | None, outcome: str, direction: int) -> str:
    low, high = y.interval()
    if low is None or high is None:
        return "cannot be told: with one seed of the judge there is no interval"
    between = f"Δ{outcome} between {low:+.4f} and {high:+.4f}"
    moved = _moved(x, direction)
    if low > 0:
        told = {1: "worth something", 0: "worth something, though the metric did not clearly move"}
        return f"{told.get(moved, 'worth something, though the metric got worse')} ({between})"
    if high < 0:
        return f"costs{'' if moved > 0 else ', without a clear gain of the metric'} ({between})"
    if moved > 0:
        return f"{_of_gain_without_gain(promise)} ({between})"
    return f"neither a clear gain of the metric nor of {outcome} ({between})"


def _of_gain_without_gain(promise: Promise | None) -> str:
    """Of a clear gain of the metric beside which the outcome's interval covers zero."""
    if promise is None:
        return "too noisy to tell: the other versions establish no rate to compare with"
    promised = f"what the rate of the others promises, {promise.value:+.4f}"
    if promise.excluded:
        return f"worth nothing: the study excludes {promised}"
    return f"too noisy to tell: the study does not exclude {promised}"


def _moved(x: Change, direction: int) -> int:
    """1 for a clear gain of the metric, -1 for a clear loss, 0 for neither or not known."""
    low, high = x.interval()
    if low is None or high is None:
        # Without a known noise, what is seen is taken as it is.
        return int(np.sign(x.value)) * direction
    return direction * (int(low > 0) - int(high < 0))
