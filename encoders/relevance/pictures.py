"""The pairs that a relevance model gets most wrong, as pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from encoders.evaluation.ranked import SEARCHES
from encoders.evaluation.tiles import Gallery
from encoders.relevance.labelled_pairs import KINDS, TAKEN
from encoders.relevance.measure import ScoredPairs
from encoders.relevance.query_vectors import QueryWindow
from moonrec.report import Report, Tile
from moonrec.tables import Table

_SHOWN, _OPEN = 8, 4


def add_mistakes(
    report: Report, scored: ScoredPairs, window: QueryWindow, searches: Table, items: Table
) -> None:
    """Add the best-scored negatives, each beside what its query took, and the worst-scored positives.

    Args:
        report: the page.
        scored: the test pairs.
        window: the queries of the test.
        searches: the test searches.
        items: the catalogue.
    """
    label_P, order_P = scored.pairs.label_P, np.argsort(scored.relevance_P, kind="stable")
    wrong = _one_per_query(scored, order_P[~label_P[order_P]][::-1])
    right = _one_per_query(scored, order_P[label_P[order_P]])
    best = {row: _best_positive(scored, row) for row in wrong.tolist()}
    rows = [*wrong.tolist(), *right.tolist(), *(one for found in best.values() for one in found)]
    ids = items.read(["item_id"]).column("item_id")
    names = {row: ids[int(scored.pairs.item_P[row])].as_py() for row in rows}
    of_query = {row: int(window.row_Q[scored.pairs.query_P[row]]) for row in rows}
    gallery = Gallery.of(searches, items, names.values(), {(SEARCHES, row) for row in of_query.values()})

    def strip(row: int, others: list[int]) -> None:
        query = int(scored.pairs.query_P[row])
        vectors = window.vectors
        shown = gallery.query(
            (SEARCHES, of_query[row]), None,
            picture=bool(vectors.has_picture_Q[query]), words=bool(vectors.has_words_Q[query]),
        )  # fmt: skip
        results = [gallery.item(names[one], _note(scored, one), bool(label_P[one])) for one in (row, *others)]
        report.strip(_tile(shown), [_tile(one) for one in results])

    report.heading("Where it is most wrong")
    report.text(
        "Negatives with the highest relevance, each beside the item that its query took (marked). A negative "
        "that was only sampled may well be relevant: nobody said that it is not."
    )
    _folded(report, "More of them", list(best.items()), strip)
    report.text("Items that were taken and have the lowest relevance.")
    _folded(report, "More of those", [(row, []) for row in right.tolist()], strip)


def _folded(report: Report, summary: str, entries: list[tuple[int, list[int]]], strip: Any) -> None:
    for row, others in entries[:_OPEN]:
        strip(row, others)
    if entries[_OPEN:]:
        with report.details(summary):
            for row, others in entries[_OPEN:]:
                strip(row, others)


def _one_per_query(scored: ScoredPairs, rows: np.ndarray) -> np.ndarray:
    """The first few rows, of each query one."""
    _, first = np.unique(scored.pairs.query_P[rows], return_index=True)
    return np.asarray(rows[np.sort(first)[:_SHOWN]])


def _best_positive(scored: ScoredPairs, row: int) -> list[int]:
    """The positive of the row's query with the highest relevance; none where it is not in the catalogue."""
    own = np.flatnonzero((scored.pairs.query_P == scored.pairs.query_P[row]) & scored.pairs.label_P)
    return [int(own[np.argmax(scored.relevance_P[own])])] if len(own) else []


def _note(scored: ScoredPairs, row: int) -> str:
    kind = int(scored.pairs.kind_P[row])
    told = "taken" if kind == TAKEN else KINDS[kind].replace("_", " ")
    return f"{scored.relevance_P[row]:.2f}, cosine {scored.cosine_P[row]:.2f}, {told}"


def _tile(found: Mapping[str, Any]) -> Tile:
    image = None if found["image"] is None else base64.b64decode(found["image"])
    return Tile(image, found["label"], found["note"], found["hit"])
