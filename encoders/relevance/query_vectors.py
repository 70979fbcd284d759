"""The distinct queries of a table as vectors: of all that they show, of their picture, of their words.

Rows that ask for the same are encoded once. A table passes either as a whole, or in windows of so many rows,
within which equal queries are found: then memory does not grow with the table.

Shapes: n rows of a window, Q distinct queries, E width of the vectors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from encoders.encoder import ProductTable
from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.products import EVERYTHING, IMAGE_ONLY, TEXT_ONLY, Product, iter_queries
from encoders.queries import image_digest, text_digest
from moonrec.tables import Table

MODALITIES = ("image", "text", "both")


@dataclass(frozen=True)
class QueryVectors:
    """Unit vectors (Q, E) float32 of queries, zero where they show nothing.

    Attributes:
        whole_QE, picture_QE, words_QE: of all that a query shows, of its picture alone, of its words alone.
        has_picture_Q, has_words_Q: what it shows.
    """

    whole_QE: np.ndarray
    picture_QE: np.ndarray
    words_QE: np.ndarray
    has_picture_Q: np.ndarray
    has_words_Q: np.ndarray

    def __len__(self) -> int:
        return len(self.whole_QE)

    def __getitem__(self, rows: slice) -> QueryVectors:
        return QueryVectors(*(part[rows] for part in self._parts()))

    @classmethod
    def joined(cls, parts: Sequence[QueryVectors]) -> QueryVectors:
        """One after the other."""
        return cls(
            *(np.concatenate(columns) for columns in zip(*(one._parts() for one in parts), strict=True))
        )

    @classmethod
    def encoded(cls, worker: WorkingEncoder, shard: ProductTable) -> QueryVectors:
        """The queries of a shard."""
        whole_QE, empty_Q = worker.vectors(shard, EVERYTHING)
        has_picture_Q, has_words_Q = shard.has_image() & ~empty_Q, shard.has_text() & ~empty_Q
        # Where no query has words, all that is shown are pictures, and the other way round.
        picture_QE = worker.vectors(shard, IMAGE_ONLY)[0] if has_words_Q.any() else whole_QE
        words_QE = worker.vectors(shard, TEXT_ONLY)[0] if has_picture_Q.any() else whole_QE
        return cls(whole_QE, picture_QE, words_QE, has_picture_Q, has_words_Q)

    def modality_Q(self) -> np.ndarray:
        """Numbers of `MODALITIES`; -1 for a query that shows nothing usable."""
        return self.has_picture_Q + 2 * self.has_words_Q.astype(np.int64) - 1

    def _parts(self) -> tuple[np.ndarray, ...]:
        return self.whole_QE, self.picture_QE, self.words_QE, self.has_picture_Q, self.has_words_Q


@dataclass(frozen=True)
class QueryWindow:
    """Consecutive rows of a table.

    Attributes:
        first_row: where they begin.
        query_n: the number of each row's query.
        keys: a digest of each query (Q); equal queries of any table have equal ones.
        row_Q: a row of the table that shows each query.
        vectors: of the queries.
    """

    first_row: int
    query_n: np.ndarray
    keys: list[bytes]
    row_Q: np.ndarray
    vectors: QueryVectors


@dataclass
class _Plan:
    """The queries of a window that is being read, by their digests."""

    first_row: int
    numbers: dict[bytes, int] = field(default_factory=dict)
    query_n: list[int] = field(default_factory=list)
    first_rows: list[int] = field(default_factory=list)

    def take(self, products: Sequence[Product]) -> list[Product]:
        """Note some rows; returns those products that were not there yet."""
        fresh = []
        for product in products:
            key = image_digest(product) + text_digest(product)
            number = self.numbers.setdefault(key, len(self.numbers))
            if number == len(self.first_rows):
                self.first_rows.append(self.first_row + len(self.query_n))
                fresh.append(product)
            self.query_n.append(number)
        return fresh

    def window(self, vectors: QueryVectors) -> QueryWindow:
        query_n, row_Q = np.array(self.query_n, np.int64), np.array(self.first_rows, np.int64)
        return QueryWindow(self.first_row, query_n, list(self.numbers), row_Q, vectors)


def query_windows(searches: Table, worker: WorkingEncoder, rows: int, what: str) -> Iterator[QueryWindow]:
    """The table's queries, in windows of at least `rows` rows (the last one may have fewer).

    Args:
        searches: queries with or without pictures and words.
        worker: what encodes them.
        rows: the size of a window, up to one batch of reading more.
        what: is shown beside the progress bar.

    Raises:
        UserError: a value that may not stand where it stands, or a vector that is not finite.
    """
    closed: deque[_Plan] = deque()

    def distinct() -> Iterator[list[Product]]:
        plan = _Plan(0)
        for products in iter_queries(searches):
            if len(plan.query_n) >= rows:
                closed.append(plan)
                plan = _Plan(plan.first_row + len(plan.query_n))
            if fresh := plan.take(products):
                yield fresh
        closed.append(plan)

    waiting: list[QueryVectors] = []
    for shard in worker.shards(distinct(), searches, what):
        waiting.append(QueryVectors.encoded(worker, shard))
        yield from _complete(closed, waiting)
    yield from _complete(closed, waiting)


def _complete(closed: deque[_Plan], waiting: list[QueryVectors]) -> Iterator[QueryWindow]:
    """Hand out the windows that are read and all of whose queries are encoded."""
    while closed and sum(map(len, waiting)) >= (count := len(closed[0].numbers)):
        joined = QueryVectors.joined(waiting)
        waiting[:] = [joined[count:]]
        yield closed.popleft().window(joined[:count])
