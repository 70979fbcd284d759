"""What a retrieval run says in words: does the model find more than the baselines, and what to doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctr.retrieval.collapse import collapse_warning
from moonrec.exchange.words import interval_text

# Names of blocks of metrics.json and of methods, in the order of tables, as readers see them.
METHODS = {
    "test": "model",
    "item_knn": "item-kNN",
    "content_mean": "content mean",
    "popularity": "popularity",
}
LOW_COVERAGE = 0.5
_METRIC, _FIRST = "recall@100", 100


def verdict(metrics: Mapping[str, Any]) -> list[str]:
    """What recall@100 and its intervals say of all requests, of those for new items, and of these by
    themselves, where there are more than a hundred: a sentence each.
    """
    found = [_sentence("On all requests", metrics["test"], metrics["differences"], "all")]
    new = metrics["new_items"]
    if not new["requests"]:
        return [
            *found,
            "No test request is for an item that training had not seen: nothing is told of these.",
        ]
    start = f"On the {new['requests']:,} {_plural('request', new['requests'])} for new items"
    found.append(_sentence(start, new["test"], metrics["differences"], "new"))
    among = new["among_new"]
    if among["content_mean"] is not None and new["items"] > _FIRST:
        found.append(
            _sentence("Ranked among the new items only", among["test"], metrics["differences"], "among new")
        )
    return found


def warnings_of(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader of the numbers has to know first: collapse, and vectors that are missing.

    Args:
        metrics: `collapse` and `coverage` of a run.
    """
    collapse, coverage = metrics["collapse"], metrics["coverage"]
    found = [
        collapse_warning(collapse, collapse["frozen"], "the item vectors"),
        collapse_warning(collapse["users"], collapse["frozen"], "the user vectors"),
    ]
    share = coverage["target"]
    if share is not None and share < LOW_COVERAGE:
        found.append(f"Only {share:.1%} of the test targets have an embedding; the rest get no content.")
    return [warning for warning in found if warning is not None]


def not_measured(metrics: Mapping[str, Any]) -> list[str]:
    """What the numbers are silent about, and why."""
    found = []
    if metrics["content_mean"] is None:
        found.append("Without --embeddings there is no content: its baseline cannot be computed.")
    if not metrics["new_items"]["requests"]:
        found.append("No test request is for a new item.")
    if any(one["ci_low"] is None for one in metrics["differences"]):
        found.append("A single user has no interval: differences over one user are told without.")
    return found


def difference_text(one: Mapping[str, Any]) -> str:
    """`+0.0312 [+0.0201, +0.0415]`."""
    return interval_text(one["difference"], one["ci_low"], one["ci_high"], digits=4)


def _sentence(
    start: str, block: Mapping[str, Any], differences: Sequence[Mapping[str, Any]], group: str
) -> str:
    told = [one for one in differences if one["group"] == group and one["metric"] == _METRIC]
    # The best baseline, the one that the model is furthest behind or least ahead of, comes first.
    told.sort(key=lambda one: float(one["difference"]))
    less = [one for one in told if one["ci_high"] is not None and one["ci_high"] < 0]
    more = [one for one in told if one["ci_low"] is not None and one["ci_low"] > 0]
    unclear = [one for one in told if one not in less and one not in more]
    value = f"{start}, recall@100 of the model is {block[_METRIC]:.4f}"
    if len(more) == len(told):
        return f"{value}: more than every baseline, of which {_named(more[:1])} comes closest."
    parts = []
    if less:
        parts.append(f"less than {_named(less)}")
    if unclear:
        parts.append(f"not told from {_named(unclear)}")
    if more:
        parts.append(f"more than {_named(more)}")
    return f"{value}: {'; '.join(parts)}."


def _named(some: Sequence[Mapping[str, Any]]) -> str:
    texts = [f"{METHODS[one['baseline']]} ({difference_text(one)})" for one in some]
    return " and ".join(texts)


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
