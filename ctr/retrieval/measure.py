"""What a trained model finds on the test requests, beside what the baselines find on the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.data.history import gather_ranges
from ctr.retrieval.candidate_metrics import KS, retrieval_metrics
from ctr.retrieval.catalogue import content_vectors
from ctr.retrieval.collapse import spread
from ctr.retrieval.content_mean import content_mean_candidates
from ctr.retrieval.data import RetrievalData
from ctr.retrieval.item_knn import ItemKnn
from ctr.retrieval.method_comparison import compare_methods
from ctr.retrieval.part_search import part_candidates
from ctr.retrieval.popularity import filled_with_popularity, popularity_candidates
from ctr.retrieval.positives import Positives, new_positives
from ctr.retrieval.requests import Requests
from ctr.retrieval.retrieval_verdict import warnings_of as warnings_of_numbers
from ctr.retrieval.towers import POPULARITY
from moonrec.embedding_set import EmbeddingSet
from moonrec.nearest import top_k

MOST = max(KS)
_BLOCK = 65_536
# Vectors that the spread of a space is estimated from; ours.
_SPREAD = 100_000
# Below this share of test targets among the candidates a warning says so; ours.
_MOST_CANDIDATES = 0.99


@dataclass(frozen=True)
class Baselines:
    """Candidates of the methods that are not trained, for the test requests.

    Attributes:
        lists: by name (Q, K).
        content_among_new: those of `content_mean` out of the new items, for the requests that have a new
            positive; None without vectors.
        frozen: spread of the frozen vectors of the catalogue; None without.
    """

    lists: Mapping[str, NDArray[np.int64]]
    content_among_new: NDArray[np.int64] | None
    frozen: Mapping[str, float | None] | None


def counts_of(data: RetrievalData) -> NDArray[np.int64]:
    """How often each candidate is a training target (N)."""
    return data.taken_C[data.catalogue.code_M]


def baselines(data: RetrievalData) -> Baselines:
    """Popularity, item-kNN, and the mean of the history's frozen vectors, all from the training period."""
    test, count_N = data.test, counts_of(data)
    lists = {
        "popularity": popularity_candidates(count_N, test.masked, MOST),
        "item_knn": filled_with_popularity(
            _fitted_knn(data).candidates(test.history, test.masked, MOST), count_N, test.masked
        ),
    }
    if data.frozen is None:
        return Baselines(lists, None, None)
    row_N = data.items.frozen_C[data.catalogue.code_M]
    frozen_ND = np.concatenate(list(content_vectors(data.frozen, row_N, _BLOCK)))
    lists["content_mean"] = content_mean_candidates(frozen_ND, test.history, test.masked, MOST)
    _, rows_q = new_positives(_positives(test), count_N)
    among_new = content_mean_candidates(
        frozen_ND, test.history.take(rows_q), test.masked.take(rows_q), MOST, count_N == 0
    )
    return Baselines(lists, among_new, spread(frozen_ND[:_SPREAD]))


def measure(
    data: RetrievalData, found: Baselines, user_QD: NDArray[np.float32], items: EmbeddingSet, seed: int
) -> dict[str, Any]:
    """All that `metrics.json` tells about the test requests, and about collapse.

    Args:
        data: the inputs.
        found: the baselines' candidates.
        user_QD: vectors of the test requests.
        items: vectors of the catalogue, as they are served.
        seed: of the bootstrap.
    """
    test, count_N = data.test, counts_of(data)
    masked = (test.masked.values, test.masked.offsets_R1)
    lists = {"model": top_k(user_QD, items, MOST, masked)[1], **found.lists}
    _, rows_q = new_positives(_positives(test), count_N)
    among_new = {
        "model": part_candidates(user_QD[rows_q], items, count_N == 0, test.masked.take(rows_q), MOST)
    }
    if found.content_among_new is not None:
        among_new["content_mean"] = found.content_among_new
    compared = compare_methods(lists, _positives(test), test.rows.group_R, count_N, among_new, seed)
    return compared | {"collapse": _collapse(user_QD, items, found.frozen)}


def quality(
    requests: Requests, user_QD: NDArray[np.float32], items: NDArray[np.float32], k: int
) -> dict[str, float]:
    """Mean `recall@k` and, among the first k, `mrr` of requests against all candidates."""
    masked = (requests.masked.values, requests.masked.offsets_R1)
    _, item_QK = top_k(user_QD, lambda: iter([items]), k, masked)
    pairs = (requests.query_P, requests.item_P, requests.positives_Q)
    means, _ = retrieval_metrics(item_QK, *pairs, len(items), ks=(k,))
    return {name: float(means[name] or 0.0) for name in (f"recall@{k}", "mrr")}


def coverage(data: RetrievalData) -> dict[str, float | None]:
    """Shares of test targets, of behaviours in test histories and of the catalogue that have a vector.

    And of test targets that are candidates at all, `target_in_catalogue`.
    """
    test = data.test
    shares: dict[str, float | None] = {"target": None, "history": None, "catalogue": None}
    if data.frozen is not None:
        event_N, _ = gather_ranges(test.rows.start_R.astype(np.int64), test.rows.end_R.astype(np.int64))
        covered_C = data.items.frozen_C > 0
        shares = {
            "target": _mean(covered_C[test.code_P]),
            "history": _mean(covered_C[test.rows.store.item_E[event_N]]),
            "catalogue": _mean(covered_C[data.catalogue.code_M]),
        }
    return shares | {"target_in_catalogue": _mean(test.item_P >= 0)}


def warnings_of(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader must not miss, a sentence each."""
    found = warnings_of_numbers(metrics)
    share = metrics["coverage"]["target_in_catalogue"]
    if share is not None and share < _MOST_CANDIDATES:
        found.append(
            f"{1 - share:.1%} of the test targets are no candidates (unknown to the catalogue, or without "
            "id, vector and category): every method misses them."
        )
    trained = metrics["train"]
    if trained["best_epoch"] >= trained["epochs"]:
        found.append(
            f"Validation recall was still growing after {trained['epochs']:.0f} epochs; raise --epochs."
        )
    return found


def _fitted_knn(data: RetrievalData) -> ItemKnn:
    store, position_C = data.store, data.catalogue.position_C
    user_E = np.repeat(np.arange(len(store.user_offsets) - 1), np.diff(store.user_offsets))
    item_E = position_C[store.item_E]
    used_E = data.learnt_E & (item_E >= 0)
    return ItemKnn.fit(user_E[used_E], item_E[used_E], len(data.catalogue))


def _positives(requests: Requests) -> Positives:
    return Positives(requests.query_P, requests.item_P, requests.positives_Q)


def _collapse(
    user_QD: NDArray[np.float32], items: EmbeddingSet, frozen: Mapping[str, float | None] | None
) -> dict[str, Any]:
    vectors_ND = np.concatenate([block[:_SPREAD] for block in items.blocks()])[:_SPREAD]
    own = slice(None, -POPULARITY)
    return {**spread(vectors_ND[:, own]), "users": spread(user_QD[:_SPREAD, own]), "frozen": frozen}


def _mean(flag: NDArray[np.bool_]) -> float | None:
    return float(flag.mean()) if flag.size else None
