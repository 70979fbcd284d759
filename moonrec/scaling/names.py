"""Metrics in words: `retrieval.image_to_item.hit@10` is `image to item hit@10`, `test.auc` is `AUC`."""

from __future__ import annotations

_KINDS = {"auc": "AUC", "gauc": "GAUC", "mrr": "MRR", "f1": "F1", "ndcg@10": "NDCG@10"}


def readable(metric: str) -> str:
    """A metric as readers are told it; names of the catalogue stay as they are."""
    group, _, rest = metric.partition(".")
    of, _, kind = rest.rpartition(".")
    of = of.replace("_", " ") if group == "retrieval" else of
    return " ".join(filter(None, (of, _KINDS.get(kind, kind))))


def file_name(metric: str) -> str:
    """The plot's, without its end."""
    return "".join(letter if letter.isalnum() or letter in ".-_" else "-" for letter in metric)
