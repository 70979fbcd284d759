"""The tasks of a plan, measured: the catalogue is read once for all retrieval tasks, once for all labels.

Shapes: Q distinct queries, P (query, positive) pairs, E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from encoders.evaluation.catalogue import Catalogue, EncodedItems, encode_items
from encoders.evaluation.label_sets import LabelSet, attribute_label_sets, category_label_sets
from encoders.evaluation.search_queries import encode_searches
from encoders.evaluation.tasks import ATTRIBUTES, CLASSIFICATION, IMAGE_TO_ITEM, Plan, RetrievalTask
from encoders.evaluation.within_catalogue import own_queries
from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.evaluation.zero_shot import predict, scores
from encoders.queries import NoQueries, Queries, distinct_queries
from moonrec.embedding_set import EmbeddingSet
from moonrec.metrics import ranking_metrics
from moonrec.nearest import ranks_of_positives
from moonrec.tables import Table

CUTOFFS = (1, 5, 10, 50)
SEARCHES, CATALOGUE = "searches", "catalogue"
_LABEL_SETS = {CLASSIFICATION: category_label_sets, ATTRIBUTES: attribute_label_sets}


@dataclass(frozen=True)
class Inputs:
    """The tables, and the embedding set that stands for the catalogue if there is one."""

    searches: Table
    items: Table | None
    embeddings: EmbeddingSet | None


def ranked(
    queries: Queries, vectors_QE: np.ndarray, catalogue: Catalogue, queries_from: str
) -> dict[str, Any]:
    """The metrics and counts of one retrieval task."""
    pairs = (queries.query_P, queries.item_P)
    ranks_P = ranks_of_positives(vectors_QE, catalogue.vectors, pairs, queries.own_item_Q)
    return ranking_metrics(ranks_P, queries.query_P, queries.positives_Q, CUTOFFS) | {
        "queries": len(vectors_QE),
        "catalogue": len(catalogue),
        "positives": int(queries.positives_Q.sum()),
        "positives_in_catalogue": len(queries.item_P),
        "queries_from": queries_from,
    }


def retrieval_of_embeddings(searches: Table, embeddings: EmbeddingSet) -> dict[str, Any]:
    """Image search without an encoder: a row's query is the frozen vector of the item whose picture it is.

    Raises:
        NoQueries: no row names an item that the set has.
    """
    ids = searches.read(["query_item_id"]).column("query_item_id")
    rows = embeddings.rows(ids)
    keys = [str(row).encode() if row else None for row in rows.tolist()]
    queries = distinct_queries(searches, embeddings.ids, keys)
    vectors_QE = embeddings.vectors(rows[queries.first_row_Q]).astype(np.float32)
    return {IMAGE_TO_ITEM.name: ranked(queries, vectors_QE, Catalogue.of(embeddings), SEARCHES)}


def retrieval(plan: Plan, inputs: Inputs, worker: WorkingEncoder) -> dict[str, Any]:
    """The metrics of every retrieval task that the data allow, by name.

    Raises:
        NoQueries: the searches are of no use for any of the tasks that were meant for them.
    """
    tasks = plan.retrieval
    if not tasks:
        return {}
    asked = {task.query_view for task in tasks if not task.columns_missing(inputs.searches)}
    searches = encode_searches(inputs.searches, worker, asked)
    own = [task for task in tasks if task.crosses and not searches.has(task.query_view)]
    views = {task.item_view for task in tasks if task.crosses or inputs.embeddings is None}
    views |= {task.query_view for task in own}
    items = None
    if inputs.items is not None and views:
        items = encode_items(inputs.items, worker, views, digests=bool(own))
    found: dict[str, Any] = {}
    for task in tasks:
        try:
            if task in own:
                assert items is not None
                found[task.name] = ranked(*own_queries(items, task), CATALOGUE)
            else:
                catalogue = _catalogue(task, items, inputs.embeddings)
                found[task.name] = ranked(*searches.queries(task, catalogue.ids), catalogue, SEARCHES)
        except NoQueries as error:
            plan.leave_out(task.name, str(error))
    _check_searches_were_used(plan, tasks, found)
    return found


def labelled(plan: Plan, inputs: Inputs, worker: WorkingEncoder) -> dict[str, dict[str, Any]]:
    """`classification` by level and `attributes` by name, as far as they are in the plan."""
    sets: list[tuple[str, LabelSet]] = []
    for task in (name for name in _LABEL_SETS if name in plan.names):
        assert inputs.items is not None
        of_task, left_out = _LABEL_SETS[task](inputs.items)
        if not of_task:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            plan.leave_out(task, reasons or "no item has any")
            continue
        for name, reason in left_out.items():
            plan.leave_out(f"{task}.{name}", reason)
        sets += [(task, one) for one in of_task]
    if not sets:
        return {}
    assert inputs.items is not None
    found: dict[str, dict[str, Any]] = {}
    predicted = predict(inputs.items, worker, [one for _, one in sets])
    for (task, one), predicted_J in zip(sets, predicted, strict=True):
        if (predicted_J < 0).all():
            plan.leave_out(f"{task}.{one.name}", "none of its items has a picture, a title or a description")
        else:
            found.setdefault(task, {})[one.name] = scores(one, predicted_J)
    return found


def _catalogue(task: RetrievalTask, items: EncodedItems | None, embeddings: EmbeddingSet | None) -> Catalogue:
    if embeddings is not None and not task.crosses:
        return Catalogue.of(embeddings)
    assert items is not None
    return items.catalogue(task.item_view)


def _check_searches_were_used(plan: Plan, tasks: Sequence[RetrievalTask], found: dict[str, Any]) -> None:
    meant = [task.name for task in tasks if not task.crosses]
    if meant and not any(name in found for name in meant):
        raise NoQueries(plan.left_out[meant[0]])
