"""Several seeds of one run: means of every number, and how far the main ones spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SPREAD = ("recall@10", "recall@100", "recall@500", "ndcg@10")
# What is said of the saved model alone.
_OF_FIRST = ("index",)


def over_seeds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of a run out of those of its seeds.

    Args:
        results: of each seed; the first one's model is saved. All have the same keys and lists of the same
            length.

    Returns:
        Numbers are means over the seeds, but for `index`, which is of the saved model; limits of intervals
        are means of the seeds' limits. With more than one seed also `spread` (of the test: mean, sd with
        n - 1, values) and `seeds` (what each gave).
    """
    first = dict(results[0])
    if len(results) == 1:
        return {name: value for name, value in first.items() if name != "seed"}
    metrics = {
        name: first[name] if name in _OF_FIRST else _mean([one[name] for one in results])
        for name in first
        if name != "seed"
    }
    metrics["spread"] = {name: _spread([one["test"][name] for one in results]) for name in SPREAD}
    metrics["seeds"] = [
        {name: one[name] for name in ("seed", "train", "test", "new_items")} for one in results
    ]
    return metrics


def _mean(values: Sequence[Any]) -> Any:
    """Inside tables and lists: the mean of numbers; what is the same in all stays; the rest is None."""
    first = values[0]
    if all(isinstance(value, Mapping) for value in values):
        return {name: _mean([value.get(name) for value in values]) for name in first}
    if all(isinstance(value, list) and len(value) == len(first) for value in values):
        return [_mean(list(column)) for column in zip(*values, strict=True)]
    if all(value == first for value in values):
        return first
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return float(np.mean(values)) if numbers else None


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "sd": None, "values": list(values)}
    return {"mean": float(np.mean(known)), "sd": float(np.std(known, ddof=1)), "values": known}
