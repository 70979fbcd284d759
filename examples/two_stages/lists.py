"""Candidate lists in numbers, what the click model says of them, and how good their orders are.

Legend: Q requests, K places of a list, N items of the catalogue, P (request, positive) pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ctr import load_ctr
from ctr.retrieval.candidate_lists import SOURCES
from ctr.retrieval.candidate_metrics import retrieval_metrics
from ctr.retrieval.positives import Positives
from examples.two_stages.split import Split
from moonrec.ids import rows_of

# The orders of the candidates that are compared.
RETRIEVED, CLICKED, BOTH = "retrieval alone", "click model alone", "both stages"
ORDERS = (RETRIEVED, CLICKED, BOTH)
KS = (10, 20)
_TOLD = ("recall@10", "recall@20", "ndcg@10")


@dataclass(frozen=True)
class Lists:
    """The candidates of the requests, best first.

    Attributes:
        users: who asks (Q), as in the table of requests.
        time_Q: when.
        ids: the catalogue (N).
        item_QK: positions in it, -1 where a list has ended.
        score_QK: of the retrieval: a cosine; where `popular_Q`, how often the item was taken.
        popular_Q: the model knew nothing of the user, so he gets what is popular.
        click_QK: the click model's probability; nan where a list has ended.
        new_N: items that nobody took in training.
    """

    users: pa.ChunkedArray
    time_Q: pa.ChunkedArray
    ids: pa.ChunkedArray
    item_QK: NDArray[np.int64]
    score_QK: NDArray[np.float64]
    popular_Q: NDArray[np.bool_]
    click_QK: NDArray[np.float64]
    new_N: NDArray[np.bool_]

    @classmethod
    def scored(
        cls, path: Path, ids: pa.ChunkedArray, taken: pa.ChunkedArray, click_run: Path, before: Path
    ) -> Lists:
        """Read what `moonrec retrieve` wrote, and let the click model judge every candidate.

        Args:
            path: its table, with times.
            ids: the catalogue.
            taken: ids of the items that were taken in training.
            click_run: a run folder of `moonrec train-ctr`.
            before: the events that histories come from.
        """
        table = pq.read_table(path).combine_chunks()
        length_Q = table["item_ids"].combine_chunks().value_lengths().to_numpy()
        there_QK = np.arange(length_Q.max(initial=1)) < length_Q[:, None]
        flat = pc.list_flatten(table["item_ids"])
        item_QK = np.full(there_QK.shape, -1)
        score_QK, click_QK = np.full(there_QK.shape, -np.inf), np.full(there_QK.shape, np.nan)
        item_QK[there_QK] = rows_of(flat, ids)
        score_QK[there_QK] = pc.list_flatten(table["scores"]).to_numpy()
        row_E = np.nonzero(there_QK)[0]
        asked = table.select(["user_id", "timestamp"]).take(row_E).append_column("item_id", flat)
        click_QK[there_QK] = load_ctr(click_run).score(pq.read_table(before), asked)
        return cls(
            users=table["user_id"],
            time_Q=table["timestamp"],
            ids=ids,
            item_QK=item_QK,
            score_QK=score_QK,
            popular_Q=pc.equal(table["source"], SOURCES[-1]).to_numpy(),
            click_QK=click_QK,
            new_N=rows_of(ids, taken) < 0,
        )

    def orders(self, temperature: float) -> Mapping[str, NDArray[np.int64]]:
        """Places of each list, the best first (Q, K), by each order that is compared.

        The retrieval's softmax tells which item a user comes to next, the click model whether he takes what
        he sees, so `both stages` multiplies the two probabilities, that is, adds their logarithms. Its
        weights are those of the two trained models; nothing is fitted to the test.

        Args:
            temperature: that of the retrieval's softmax.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            # A count is a probability up to a factor, which is the same along a list. A logit is twice the
            # cosine of the vectors that are served (ctr/retrieval/towers.py).
            logit_QK = 2 * self.score_QK / temperature
            come_QK = np.where(self.popular_Q[:, None], np.log(self.score_QK), logit_QK)
        take_QK = np.log(np.maximum(self.click_QK, np.finfo(np.float64).tiny))
        values = {RETRIEVED: self.score_QK, CLICKED: take_QK, BOTH: come_QK + take_QK}
        there_QK = self.item_QK >= 0
        return {
            name: np.argsort(-np.where(there_QK, value_QK, -np.inf), axis=1, kind="stable")
            for name, value_QK in values.items()
        }

    def positives(self, split: Split) -> Positives:
        """What the requests should find."""
        answers = pq.read_table(split.answers, columns=["user_id", "item_id"])
        query_P = rows_of(answers["user_id"], self.users)
        count_Q = np.bincount(query_P, minlength=len(self.users))
        return Positives(query_P, rows_of(answers["item_id"], self.ids), count_Q)


def quality(lists: Lists, place_QK: NDArray[np.int64], positives: Positives) -> dict[str, float]:
    """Recall@10, recall@20 and NDCG@10 of an order, and recall@20 of the new items, ranked among all."""
    item_QK = np.take_along_axis(lists.item_QK, place_QK, axis=1)[:, : max(KS)]
    # The last entry answers for -1, what the catalogue lacks.
    new, rows_q = positives.only(np.append(lists.new_N, False)[positives.item_P])
    found = _measured(item_QK, positives, len(lists.ids))
    if len(rows_q):
        found["recall@20, new items"] = _measured(item_QK[rows_q], new, len(lists.ids))["recall@20"]
    return found


def _measured(item_QK: NDArray[np.int64], positives: Positives, items: int) -> dict[str, float]:
    of_pairs = (positives.query_P, positives.item_P, positives.count_Q)
    found, _ = retrieval_metrics(item_QK, *of_pairs, items, ks=KS)
    return {name: float(found[name] or 0.0) for name in _TOLD}
