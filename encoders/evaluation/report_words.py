"""What tasks and metrics of an evaluation are called on its page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from encoders.evaluation.tasks import ATTRIBUTES, CLASSIFICATION, RETRIEVAL

Entrants = Mapping[str, Mapping[str, Any]]
"""The numbers of each entrant by its name, what is evaluated first."""

_METRICS = {
    "mrr": "MRR", "ndcg@10": "NDCG@10", "f1": "F1", "contrastive_loss": "contrastive loss",
    "image_text": "lead of own words",
}  # fmt: skip
_LEVEL = re.compile(r"level(\d+)")
_RETRIEVAL = {task.name for task in RETRIEVAL}


def task_label(name: str) -> str:
    """A task in words: `retrieval.image_to_item` is `image to item`, `classification.level1` is
    `category, level 1`; an attribute keeps the name that its table gives it."""
    group, dot, part = name.partition(".")
    if group == CLASSIFICATION:
        return "category" + _LEVEL.sub(r", level \1", part)
    if group == ATTRIBUTES and dot:
        return f"attribute {part}"
    own = name.removeprefix("retrieval.")
    return own.replace("_", " ") if own in _RETRIEVAL else own


def metric_label(name: str) -> str:
    """A metric as it is written: `mrr` is `MRR`."""
    return _METRICS.get(name, name)


def chance_of_hit(values: Mapping[str, Any], cutoff: int) -> float:
    """The hit rate of a random order of the catalogue, for a query with the mean number of positives.

    With one positive per query that is cutoff / catalogue.
    """
    positives = values["positives_in_catalogue"] / max(values["queries"], 1)
    missed = 1.0
    for place in range(min(cutoff, values["catalogue"])):
        missed *= max(0.0, 1 - positives / (values["catalogue"] - place))
    return 1 - missed


def by_entrant(
    entrants: Entrants, group: str, column: str
) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """The first cells of a row and its numbers: the parts of a group, each with all entrants."""
    names = dict.fromkeys(part for values in entrants.values() for part in values.get(group, {}))
    for part in names:
        for name, values in entrants.items():
            if part in values.get(group, {}):
                told = part if group == ATTRIBUTES else task_label(f"{group}.{part}")
                yield {column: told} | entrant_cell(name, entrants), values[group][part]


def entrant_cell(name: str, entrants: Entrants) -> dict[str, str]:
    """Who a row is about; nothing where there is nobody else."""
    return {"entrant": name} if len(entrants) > 1 else {}
