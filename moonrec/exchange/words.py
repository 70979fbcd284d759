"""How readers see metrics, outcomes and numbers: AUC in points of a hundred, as everybody quotes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moonrec.exchange.observations import ALL, lower_is_better
from moonrec.exchange.slope import Rate

_WORDS = {"auc": "AUC", "gauc": "GAUC", "mrr": "MRR", "top3 cosine": "top-3 cosine", "f1": "F1"}


@dataclass(frozen=True)
class Unit:
    """How a metric is shown.

    Attributes:
        name: of its values and changes.
        scale: from the metric to these.
        step: that which a slope is told per.
        slope_scale: from a slope to points of the outcome per `step`.
    """

    name: str
    scale: float
    step: str
    slope_scale: float


_POINTS = Unit("points", 100.0, "point", 1.0)
_NATS = Unit("nats", 1.0, "nat", 100.0)
_COSINE = Unit("cosine", 1.0, "0.01", 1.0)


def unit_of(metric: str) -> Unit:
    """Losses are in nats, agreement is a difference of cosines; hits, accuracies and AUC are shares."""
    if lower_is_better(metric):
        return _NATS
    return _COSINE if metric.split(".")[0] == "agreement" else _POINTS


def metric_label(name: str) -> str:
    """`retrieval.image_to_item.hit@10` becomes `image → item, hit@10`."""
    parts = name.removeprefix("retrieval.").split(".")
    words = (part.replace("_to_", " → ").replace("_", " ") for part in parts)
    label = ", ".join(_WORDS.get(word, word) for word in words)
    return f"{label} (less is better)" if lower_is_better(name) else label


def outcome_label(name: str) -> str:
    """`gauc` becomes `GAUC`."""
    return _WORDS.get(name, name)


def domain_label(name: str) -> str:
    """`all` is no category."""
    return "all items" if name == ALL else name


def interval_text(
    value: float | None, low: float | None, high: float | None, scale: float = 1.0, digits: int = 3
) -> str:
    """`+0.123 [+0.051, +0.195]`; without an interval the value alone, without a value a dash.

    At least `digits` decimals, and as many more as half the interval, or the value alone, needs for two
    significant ones.
    """
    if value is None:
        return "–"
    if low is None or high is None:
        decimals = max(digits, _decimals(value * scale))
        return f"{value * scale:+.{decimals}f}"
    decimals = max(digits, _decimals((high - low) / 2 * scale))
    return f"{value * scale:+.{decimals}f} [{low * scale:+.{decimals}f}, {high * scale:+.{decimals}f}]"


def _decimals(size: float) -> int:
    """That show two significant digits."""
    return 0 if size == 0 else min(12, 1 - math.floor(math.log10(abs(size))))


def slope_text(rate: Rate) -> str:
    """The slope with its interval: points of the outcome per `unit_of(…).step` of the metric."""
    return interval_text(rate.slope, rate.ci_low, rate.ci_high, unit_of(rate.metric).slope_scale)


def value_text(metric: str, value: float | None) -> str:
    """A metric's value: shares in points, others as they are."""
    if value is None or not math.isfinite(value):
        return "–"
    unit = unit_of(metric)
    return number_text(value, unit.scale, 2 if unit.scale > 1 else 3)


def number_text(value: float | None, scale: float = 1.0, digits: int = 2) -> str:
    """A number without a sign, or a dash."""
    return "–" if value is None else f"{value * scale:.{digits}f}"


def p_text(value: float | None) -> str:
    """A p value, or a dash."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def of_outcome(rates: Sequence[Rate], outcome: str, domain: str = ALL) -> list[Rate]:
    """The rates of one outcome and domain, in their order."""
    return [rate for rate in rates if rate.outcome == outcome and rate.domain == domain]


def wrong_way(rate: Rate) -> bool:
    """Whether an established gain of the metric goes with a loss of the outcome."""
    return rate.established and rate.slope is not None and (rate.slope < 0) != lower_is_better(rate.metric)
