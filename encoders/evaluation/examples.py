"""Pictures where people would rather look: queries with what was found for them, items with their neighbours.

Of every retrieval task the best, median and worst queries by the rank of the first positive, and a few that
a hash of their rows chooses: these are the same in every run over the same searches, so that two encoders can
be looked at side by side. Only the rows that are shown are read.

Shapes: C chosen queries, K results, N items of the catalogue, E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders.evaluation.catalogue import Catalogue
from encoders.evaluation.chosen import choose_items, choose_queries, row_hashes
from encoders.evaluation.ranked import Ranked
from encoders.evaluation.tiles import Gallery
from moonrec.atomic import write_json
from moonrec.domains import item_domains
from moonrec.embedding_set import EmbeddingSet
from moonrec.nearest import top_k
from moonrec.tables import Table

FILE = "examples.json"
RESULTS = 5


@dataclass(frozen=True)
class _Found:
    """What is found for one query or item: ids, cosines, whether they are positives (None: not known)."""

    ids: list[str]
    scores: list[float]
    hits: list[bool | None]


@dataclass(frozen=True)
class _Asked:
    """One query to show; `taken` is its first positive where that is none of the results."""

    ranked: Ranked
    kind: str
    rank: int
    row: tuple[str, int]
    own_item: str | None
    found: _Found
    taken: str | None

    def ids(self) -> list[str]:
        others = (self.own_item, self.taken)
        return self.found.ids + [key for key in others if key is not None]


def write_examples(
    folder: Path, ranked: Sequence[Ranked], searches: Table, items: Table | None
) -> dict[str, Any]:
    """Write `examples.json` of an evaluation and return what it holds.

    `tasks.<task>[]` are `{"kind", "rank", "of", "query", "results"}`: the rank of the first positive, the
    number of items that were ranked; and `taken`, that positive, where it is none of the results.
    `neighbours[]` are `{"query", "results"}`. Queries, results and `taken` are tiles.

    Args:
        folder: the run's folder.
        ranked: the retrieval tasks, as they were measured.
        searches: the table of the searches.
        items: the catalogue; without it items are shown by their ids.

    Raises:
        UserError: a row that is shown holds a value that may not stand there.
    """
    asked = [one for task in ranked for one in _asked(task, searches, items)]
    neighbours = dict(_neighbours(ranked, items))
    wanted = [key for one in asked for key in one.ids()]
    wanted += [key for own, found in neighbours.items() for key in (own, *found.ids)]
    gallery = Gallery.of(searches, items, wanted, [one.row for one in asked])
    examples: dict[str, Any] = {
        "tasks": {
            task.task.name: [_query_shown(one, gallery) for one in asked if one.ranked is task]
            for task in ranked
        },
        "neighbours": [
            {"query": gallery.item(own, ""), "results": _results_shown(found, gallery)}
            for own, found in neighbours.items()
        ],
    }
    write_json(folder / FILE, examples)
    return examples


def _asked(ranked: Ranked, searches: Table, items: Table | None) -> Iterator[_Asked]:
    chosen = choose_queries(ranked, row_hashes(ranked, searches, items))
    queries, ids = ranked.queries, ranked.catalogue.ids
    own_C = queries.own_item_Q[chosen.query_C]
    nearest = _nearest(ranked.catalogue, ranked.vectors_QE[chosen.query_C], own_C)
    for number, query in enumerate(chosen.query_C.tolist()):
        (place,) = np.nonzero(queries.query_P == query)
        found = _found(ranked.catalogue, nearest, number, queries.item_P[place])
        first = int(queries.item_P[place[ranked.ranks_P[place].argmin()]])
        yield _Asked(
            ranked,
            chosen.kinds[number],
            int(chosen.rank_C[number]),
            (ranked.queries_from, int(queries.first_row_Q[query])),
            ids[int(own_C[number])].as_py() if own_C[number] >= 0 else None,
            found,
            None if any(found.hits) else ids[first].as_py(),
        )


def _neighbours(ranked: Sequence[Ranked], items: Table | None) -> Iterator[tuple[str, _Found]]:
    """A few items and what is nearest to them, by the vectors that the searches are compared with."""
    whole = next((one.catalogue for one in ranked if not one.task.crosses), None)
    if whole is None or not len(whole):
        return
    rows = choose_items(whole.ids, None if items is None else item_domains(items))
    nearest = _nearest(whole, _vectors(whole, rows), rows)
    for number, row in enumerate(rows.tolist()):
        yield whole.ids[row].as_py(), _found(whole, nearest, number, None)


def _nearest(
    catalogue: Catalogue, vectors_CE: np.ndarray, own_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and rows (C, K) of what comes first."""
    return top_k(vectors_CE, catalogue.vectors, RESULTS, own_C)


def _found(
    catalogue: Catalogue, nearest: tuple[np.ndarray, np.ndarray], number: int, positives: np.ndarray | None
) -> _Found:
    scores, rows = (of[number].tolist() for of in nearest)
    there = [(row, score) for row, score in zip(rows, scores, strict=True) if row >= 0]
    known = None if positives is None else set(positives.tolist())
    return _Found(
        [catalogue.ids[row].as_py() for row, _ in there],
        [score for _, score in there],
        [None if known is None else row in known for row, _ in there],
    )


def _vectors(catalogue: Catalogue, rows: np.ndarray) -> np.ndarray:
    """Vectors (C, E) float32 of a few rows of the catalogue, in one pass."""
    blocks = catalogue.vectors
    if isinstance(blocks, EmbeddingSet):
        return blocks.vectors(rows + 1).astype(np.float32)
    order = np.argsort(rows)
    found, first = [], 0
    for block in blocks():
        inside = rows[order][(rows[order] >= first) & (rows[order] < first + len(block))] - first
        found.append(block[inside].astype(np.float32))
        first += len(block)
    vectors_CE = np.concatenate(found)
    return vectors_CE[np.argsort(order)]


def _query_shown(one: _Asked, gallery: Gallery) -> dict[str, Any]:
    task = one.ranked.task
    shown = {
        "kind": one.kind,
        "rank": one.rank,
        "of": len(one.ranked.catalogue),
        "query": gallery.query(one.row, one.own_item, picture=task.shows_picture, words=task.shows_words),
        "results": _results_shown(one.found, gallery),
    }
    if one.taken is not None:
        shown["taken"] = gallery.item(one.taken, f"at rank {one.rank:,}")
    return shown


def _results_shown(found: _Found, gallery: Gallery) -> list[dict[str, Any]]:
    return [
        gallery.item(key, f"{score:.2f}", hit)
        for key, score, hit in zip(found.ids, found.scores, found.hits, strict=True)
    ]
