"""How readers see metrics, outcomes and numbers: AUC in points of a hundred, as everybody quotes it."""

from __future__ import annotations

from collections.abc import Sequence

from moonrec.exchange.observations import ALL, lower_is_better
from moonrec.exchange.slope import Rate

_WORDS = {"auc": "AUC", "gauc": "GAUC", "mrr": "MRR", "top3 cosine": "top-3 cosine", "f1": "F1"}


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
    """`+0.123 [+0.051, +0.195]`; without an interval the value alone, without a value a dash."""
    if value is None:
        return "–"
    text = f"{value * scale:+.{digits}f}"
    if low is None or high is None:
        return text
    return f"{text} [{low * scale:+.{digits}f}, {high * scale:+.{digits}f}]"


def slope_text(rate: Rate) -> str:
    """The slope with its interval: points of the outcome per point of the metric."""
    return interval_text(rate.slope, rate.ci_low, rate.ci_high)


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
