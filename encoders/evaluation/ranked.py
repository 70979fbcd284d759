"""One retrieval task of one entrant, measured query by query.

Shapes: Q distinct queries, P (query, positive) pairs, E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from encoders.evaluation.catalogue import Catalogue
from encoders.evaluation.tasks import RetrievalTask
from encoders.queries import Queries

SEARCHES, CATALOGUE = "searches", "catalogue"


@dataclass(frozen=True)
class Ranked:
    """What was asked, what was searched, and where the answers came.

    Attributes:
        task: what the queries show, and what the products show.
        queries_from: `searches`; or `catalogue`, where its own pictures or words were the queries.
        queries: `first_row_Q` are rows of the table named by `queries_from`; `item_P` places in `catalogue`.
        vectors_QE: float32 unit vectors of the queries.
        catalogue: ids and vectors that were ranked.
        ranks_P: 1-based rank of every positive.
        values: per query (Q), by the metric's name: `hit@1`, ..., `recall@1`, ..., `mrr`, `ndcg@10` and
            `contrastive_loss` (NaN for a query none of whose positives is in the catalogue).
    """

    task: RetrievalTask
    queries_from: str
    queries: Queries
    vectors_QE: np.ndarray
    catalogue: Catalogue
    ranks_P: np.ndarray
    values: Mapping[str, np.ndarray]

    def first_rank_Q(self) -> np.ndarray:
        """Rank of each query's first positive, int64; 0 where none of them could be found."""
        first_Q = np.full(len(self.vectors_QE), np.iinfo(np.int64).max)
        np.minimum.at(first_Q, self.queries.query_P, self.ranks_P)
        return np.where(first_Q == np.iinfo(np.int64).max, 0, first_Q)
