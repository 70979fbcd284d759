"""Every candidate metric beside the others: which of them tells most about the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moonrec.exchange.observations import Metric, Outcome, Versions
from moonrec.exchange.slope import Rate, exchange_rate


def exchange_rates(metrics: Sequence[Metric], outcomes: Sequence[Outcome], versions: Versions) -> list[Rate]:
    """Every metric with every outcome of the same domain.

    Outcomes come in their order; within each, established rates first, then by the error on left-out
    versions, undefined ones last. `p_holm` is over the metrics of one outcome and domain.
    """
    found = []
    for outcome in outcomes:
        rates = [exchange_rate(m, outcome, versions) for m in metrics if m.domain == outcome.domain]
        adjusted = holm([rate.p for rate in rates])
        ranked = [replace(rate, p_holm=p) for rate, p in zip(rates, adjusted, strict=True)]
        found += sorted(ranked, key=_order)
    return found


def _order(rate: Rate) -> tuple[bool, float]:
    return not rate.established, np.inf if rate.loo_error is None else rate.loo_error


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values (Scandinavian Journal of Statistics 6, 1979); None is no test."""
    tested = [number for number, p in enumerate(p_values) if p is not None]
    p = np.array([p_values[number] for number in tested], dtype=float)
    order = np.argsort(p, kind="stable")
    # The smallest is multiplied with the number of tests, the next with one less, and so on.
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    found: list[float | None] = [None] * len(p_values)
    for number, value in zip(tested, adjusted, strict=True):
        found[number] = float(value)
    return found
