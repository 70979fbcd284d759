"""What is read from a cell's test, one number per name, and how readers see it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

SECONDS = "train.seconds"
_CUTOFFS = (10, 1)
# In the order of MOON2.0's table.
_TASKS = {
    "item_to_item": "item → item",
    "image_to_item": "image → item",
    "text_to_item": "text → item",
    "text_to_image": "text → image",
    "image_to_text": "image → text",
}
_LABELS = {"classification": "classification", "attributes": "attributes"}

HEADLINE = (*(f"retrieval.{task}.hit@10" for task in _TASKS), *(f"{kind}.accuracy" for kind in _LABELS))
"""The metrics of MOON2.0's table; its Recall@10 is hit@10 where a query has one positive."""
METRICS = (*HEADLINE, *(f"retrieval.{task}.hit@1" for task in _TASKS), SECONDS)


def cell_metrics(tested: Mapping[str, Any], seconds: float | None) -> dict[str, float]:
    """The numbers of one cell; what is undefined, or was not tested, is left out.

    Args:
        tested: `metrics.json` of `moonrec evaluate`.
        seconds: that training took; None where it was interrupted.
    """
    found: dict[str, float | None] = {SECONDS: seconds}
    for task, values in tested.get("retrieval", {}).items():
        found |= {f"retrieval.{task}.hit@{k}": values.get(f"hit@{k}") for k in _CUTOFFS}
    for kind in _LABELS:
        # Levels and attributes count alike, however many products have them.
        accuracies = [values["accuracy"] for values in _named(tested.get(kind, {}))]
        found[f"{kind}.accuracy"] = statistics.fmean(accuracies) if accuracies else None
    return {name: float(value) for name, value in found.items() if name in METRICS and value is not None}


def _named(groups: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts of a group that have an accuracy."""
    return [g for g in groups.values() if isinstance(g, Mapping) and g.get("accuracy") is not None]


def label_of(metric: str) -> str:
    """A metric's name in tables and plots."""
    if metric == SECONDS:
        return "training, s"
    parts = metric.split(".")
    return f"{_TASKS[parts[1]]}, {parts[2]}" if parts[0] == "retrieval" else f"{_LABELS[parts[0]]}, accuracy"


def scale_of(metric: str) -> float:
    """What a value is multiplied with for readers: shares are shown in percent."""
    return 1.0 if metric == SECONDS else 100.0


def present(metrics: Mapping[str, Any]) -> list[str]:
    """The names that occur in a mapping, in the order of tables."""
    return [name for name in METRICS if name in metrics]
