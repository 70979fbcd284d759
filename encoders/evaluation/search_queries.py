"""The queries of a searches table, encoded once in every view that a task asks for.

Shapes: N rows of the table, E width of the vectors, Q distinct queries.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from encoders.evaluation.tasks import RetrievalTask
from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.products import IMAGE_ONLY, TEXT_ONLY, Product, View, iter_queries
from encoders.queries import Queries, distinct_queries, image_digest, text_digest
from moonrec.tables import Table


@dataclass(frozen=True)
class EncodedSearches:
    """Per view the vectors (N, E) of the rows, and which rows (N,) have all that the view names."""

    searches: Table
    vectors: dict[View, np.ndarray]
    usable: dict[View, np.ndarray]
    picture_N: list[bytes]
    words_N: list[bytes]

    def has(self, view: View) -> bool:
        """Whether any row can be shown in this view."""
        return view in self.usable and bool(self.usable[view].any())

    def queries(self, task: RetrievalTask, ids: pa.Array | pa.ChunkedArray) -> tuple[Queries, np.ndarray]:
        """The distinct queries of a task against the catalogue with these ids, and their vectors (Q, E).

        Raises:
            NoQueries: no row has what the task shows.
        """
        shown = ((self.picture_N, task.shows_picture), (self.words_N, task.shows_words))
        parts = [digests for digests, is_shown in shown if is_shown]
        usable = self.usable[task.query_view].tolist()
        keys = [b"".join(key) if ok else None for ok, *key in zip(usable, *parts, strict=True)]
        # Words do not show the item whose picture stands beside them: it is an answer like the others.
        queries = distinct_queries(self.searches, ids, keys, leave_own_out=task.shows_picture)
        return queries, self.vectors[task.query_view][queries.first_row_Q]


def encode_searches(searches: Table, worker: WorkingEncoder, views: Collection[View]) -> EncodedSearches:
    """Encode every row in each of the views."""
    pictures: list[bytes] = []
    words: list[bytes] = []

    def noted() -> Iterator[list[Product]]:
        for products in iter_queries(searches):
            pictures.extend(image_digest(product) for product in products)
            words.extend(text_digest(product) for product in products)
            yield products

    vectors = {view: [np.zeros((0, worker.dim), np.float32)] for view in views}
    usable = {view: [np.zeros(0, bool)] for view in views}
    for shard in worker.shards(noted(), searches, "queries") if views else ():
        for view in views:
            vectors_NE, empty_N = worker.vectors(shard, view)
            usable_N = ~empty_N
            if view >= IMAGE_ONLY:
                usable_N &= shard.has_image()
            if view >= TEXT_ONLY:
                usable_N &= shard.has_text()
            vectors[view].append(vectors_NE)
            usable[view].append(usable_N)
    return EncodedSearches(
        searches,
        {view: np.concatenate(parts) for view, parts in vectors.items()},
        {view: np.concatenate(parts) for view, parts in usable.items()},
        pictures,
        words,
    )
