"""Every candidate metric beside the others: which of them tells most about the outcome.

Errors on left-out versions are set against those of the mean of the others, and all on the same versions:
some versions are easier to predict than others, and not every metric is known for each.

Legend: V versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moonrec.bootstrap import holm
from moonrec.exchange.observations import Metric, Outcome, Versions
from moonrec.exchange.points import Points, points_of
from moonrec.exchange.slope import LEAST_VERSIONS, Rate, exchange_rate, left_out


def exchange_rates(metrics: Sequence[Metric], outcomes: Sequence[Outcome], versions: Versions) -> list[Rate]:
    """Every metric with every outcome of the same domain.

    Outcomes come in their order; within each, established rates first, then by the error on left-out
    versions relative to the mean's (`loo_ratio`), undefined ones last. That ratio is over the versions that
    all metrics with enough versions share, or over a metric's own where these are too few. `p_holm` is over
    the metrics of one outcome and domain.
    """
    found = []
    for outcome in outcomes:
        own = [metric for metric in metrics if metric.domain == outcome.domain]
        rates = [exchange_rate(metric, outcome, versions) for metric in own]
        adjusted = holm([rate.p for rate in rates])
        ratios = _ratios([points_of(metric, outcome, versions) for metric in own])
        ranked = [
            replace(rate, p_holm=p, loo_ratio=ratio)
            for rate, p, ratio in zip(rates, adjusted, ratios, strict=True)
        ]
        found += sorted(ranked, key=_order)
    return found


def _order(rate: Rate) -> tuple[bool, bool, float]:
    few = rate.points < LEAST_VERSIONS
    return not rate.established, few, np.inf if rate.loo_ratio is None else rate.loo_ratio


def _ratios(every: Sequence[Points]) -> list[float | None]:
    """Per metric its error on left-out versions, that of the mean being 1."""
    known = [set(points.row_V.tolist()) for points in every if len(points.row_V) >= LEAST_VERSIONS]
    common = set.intersection(*known) if known else set()
    if len(common) < LEAST_VERSIONS:
        return [_ratio(points) for points in every]
    return [
        _ratio(points.among(common) if len(points.row_V) >= LEAST_VERSIONS else points) for points in every
    ]


def _ratio(points: Points) -> float | None:
    found = left_out(points)
    return found.ratio if found else None
