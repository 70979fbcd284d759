"""The tasks of a plan, measured for one entrant: its catalogue is read once for retrieval, once for labels.

Shapes: Q distinct queries, P (query, positive) pairs, E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from encoders.evaluation.agreement import agreement_of
from encoders.evaluation.catalogue import Catalogue, EncodedItems, encode_items
from encoders.evaluation.contrastive import contrastive_loss
from encoders.evaluation.entrants import Entrant
from encoders.evaluation.label_sets import LabelSet, attribute_label_sets, category_label_sets
from encoders.evaluation.ranked import CATALOGUE, SEARCHES, Ranked
from encoders.evaluation.results import AgreementResults, LabelResults, QueryResults, Results
from encoders.evaluation.search_queries import encode_searches
from encoders.evaluation.tasks import (
    AGREEMENT,
    ATTRIBUTES,
    CLASSIFICATION,
    IMAGE_TO_ITEM,
    Plan,
    RetrievalTask,
)
from encoders.evaluation.within_catalogue import own_queries
from encoders.evaluation.zero_shot import predict
from encoders.products import IMAGE_ONLY, TEXT_ONLY
from encoders.queries import NoQueries, Queries, distinct_queries
from moonrec.domains import NONE, Domains
from moonrec.embedding_set import EmbeddingSet
from moonrec.nearest import ranks_of_positives
from moonrec.query_metrics import query_metrics
from moonrec.tables import Table

CUTOFFS = (1, 5, 10, 50)
_LABEL_SETS = {CLASSIFICATION: category_label_sets, ATTRIBUTES: attribute_label_sets}


@dataclass(frozen=True)
class Inputs:
    """The tables, and the domains of the catalogue where there is one."""

    searches: Table
    items: Table | None
    domains: Domains | None


def measured(plan: Plan, inputs: Inputs, entrant: Entrant) -> tuple[Results, list[Ranked]]:
    """All tasks of the plan for one entrant; what it leaves out is noted in the plan.

    Raises:
        NoQueries: the searches are of no use for any of the tasks that were meant for them.
    """
    results = Results(entrant.name, entrant.dim)
    if entrant.worker is None:
        ranked = [_of_embeddings(inputs.searches, entrant)]
    else:
        ranked = _retrieval(plan, inputs, entrant, results)
        results.labels = _labelled(plan, inputs, entrant)
        results.broken_images = entrant.worker.preparer.broken.to_dict()
    results.queries = [QueryResults.of(one, inputs.domains) for one in ranked]
    results.left_out = plan.left_out
    return results, ranked


def _ranked(
    task: RetrievalTask, queries_from: str, queries: Queries, vectors_QE: np.ndarray, catalogue: Catalogue
) -> Ranked:
    pairs = (queries.query_P, queries.item_P)
    ranks_P = ranks_of_positives(vectors_QE, catalogue.vectors, pairs, queries.own_item_Q)
    values = query_metrics(ranks_P, queries.query_P, queries.positives_Q, CUTOFFS)
    values["contrastive_loss"] = contrastive_loss(queries, vectors_QE, catalogue)
    return Ranked(task, queries_from, queries, vectors_QE, catalogue, ranks_P, values)


def _of_embeddings(searches: Table, entrant: Entrant) -> Ranked:
    """Image search without an encoder: a row's query is the frozen vector of the item whose picture it is.

    Raises:
        NoQueries: no row names an item that the set has.
    """
    assert entrant.embeddings is not None
    embeddings: EmbeddingSet = entrant.embeddings
    ids = searches.read(["query_item_id"]).column("query_item_id")
    rows = embeddings.rows(ids)
    queries = distinct_queries(searches, embeddings.ids, pa.array(rows, mask=rows == 0))
    vectors_QE = entrant.narrowing(embeddings.vectors(rows[queries.first_row_Q]).astype(np.float32))
    return _ranked(IMAGE_TO_ITEM, SEARCHES, queries, vectors_QE, entrant.catalogue())


def _retrieval(plan: Plan, inputs: Inputs, entrant: Entrant, results: Results) -> list[Ranked]:
    """Every retrieval task that the data allow; sets the agreement, which needs the same vectors."""
    tasks, worker = plan.retrieval, entrant.worker
    assert worker is not None
    asked = {task.query_view for task in tasks if not task.columns_missing(inputs.searches)}
    searches = encode_searches(inputs.searches, worker, asked)
    own = [task for task in tasks if task.crosses and not searches.has(task.query_view)]
    views = {task.item_view for task in tasks if task.crosses or entrant.embeddings is None}
    views |= {task.query_view for task in own}
    if AGREEMENT in plan.names:
        views |= {IMAGE_ONLY, TEXT_ONLY}
    items = None
    if inputs.items is not None and views:
        items = encode_items(inputs.items, worker, views, digests=bool(own))
        if AGREEMENT in plan.names:
            results.agreement = _agreement(plan, items, inputs.domains)
    found: list[Ranked] = []
    for task in tasks:
        try:
            if task in own:
                assert items is not None
                found.append(_ranked(task, CATALOGUE, *own_queries(items, task)))
            else:
                catalogue = _catalogue(task, items, entrant)
                found.append(_ranked(task, SEARCHES, *searches.queries(task, catalogue.ids), catalogue))
        except NoQueries as error:
            plan.leave_out(task.name, str(error))
    _check_searches_were_used(plan, tasks, {one.task.name for one in found})
    return found


def _agreement(plan: Plan, items: EncodedItems, domains: Domains | None) -> AgreementResults | None:
    found = agreement_of(items)
    if found is None:
        plan.leave_out(AGREEMENT, "no two items have words, or none has a picture and words")
        return None
    return AgreementResults(found, _domain_of_rows(domains, found.row_I))


def _labelled(plan: Plan, inputs: Inputs, entrant: Entrant) -> list[LabelResults]:
    """Category levels and attributes, as far as they are in the plan."""
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
        return []
    assert inputs.items is not None
    assert entrant.worker is not None
    found: list[LabelResults] = []
    predicted = predict(inputs.items, entrant.worker, [one for _, one in sets])
    for (task, one), predicted_J in zip(sets, predicted, strict=True):
        judged = LabelResults(task, one, predicted_J, _domain_of_rows(inputs.domains, one.item_J))
        if judged.judged_J().any():
            found.append(judged)
        else:
            plan.leave_out(f"{task}.{one.name}", "none of its items has a picture, a title or a description")
    return found


def _domain_of_rows(domains: Domains | None, rows: np.ndarray) -> np.ndarray:
    return np.full(len(rows), NONE, np.int32) if domains is None else domains.code_N[rows]


def _catalogue(task: RetrievalTask, items: EncodedItems | None, entrant: Entrant) -> Catalogue:
    if entrant.embeddings is not None and not task.crosses:
        return entrant.catalogue()
    assert items is not None
    return items.catalogue(task.item_view)


def _check_searches_were_used(plan: Plan, tasks: Sequence[RetrievalTask], found: set[str]) -> None:
    meant = [task.name for task in tasks if not task.crosses]
    if meant and not any(name in found for name in meant):
        raise NoQueries(plan.left_out[meant[0]])
