"""Build an index beside the item vectors, choose its search effort and measure what it finds.

Legend: S users of the sample, D width, K results.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.retrieval.index.effort import least_effort
from ctr.retrieval.index.faiss_kinds import new_hnsw, new_ivfpq
from ctr.retrieval.index.faiss_library import import_faiss
from ctr.retrieval.index.index_file import (
    FAISS_FILE,
    INDEX_FILE,
    KINDS,
    Effort,
    IndexRecord,
    sha256_of,
    write_record,
)
from ctr.retrieval.index.item_index import ExactIndex
from ctr.retrieval.index.measure import measured
from ctr.retrieval.index.opening import open_index
from moonrec.atomic import atomic_file
from moonrec.embedding_set import EmbeddingSet

# Users of the sample that are used, in both halves together. Ours, not tuned.
_MOST_USERS = 1000


def build_index(
    folder: str | Path,
    kind: str,
    sample_SD: NDArray[np.float32],
    *,
    model_fingerprint: str,
    k: int = 100,
    recall: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Build the index of the item vectors in `folder`, in place of the one that is there.

    The least search effort that finds the share `recall` of the exact `k` best is chosen on one half of the
    users and measured on the other, so the recall that is reported may be a little below; where no effort
    reaches it, the best is taken and its recall reported. One index stands in a folder: `index.json`, and
    `index.faiss` where faiss is used.

    Args:
        folder: an embedding set, the output of the item tower.
        kind: `exact`, `hnsw` or `ivfpq`.
        sample_SD: float32 user vectors, at least one; 1,000 of them are used.
        model_fingerprint: of the model that made the vectors.
        k: results per request to tune for; the size of the catalogue, if that is smaller.
        recall: what is wanted, in (0, 1].
        seed: of the sample, the graph and the centres. The same seed gives the same index, but for HNSW over
            200,000 items, which several threads build (`build_threads`).

    Returns:
        kind, parameters (`note` where the catalogue is too small for the usual ones), `effort`,
        `wanted_recall`, `k`, what `measured` tells (recall, latency, requests per second, speed-up), `bytes`
        (of the index and the vectors) and `build_seconds` (without measuring).

    Raises:
        ValueError: an unknown kind, no users, or users of another width than the items.
        UserError: faiss is needed and not installed, or the folder is no embedding set.
    """
    folder = Path(folder)
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    if not len(sample_SD):
        raise ValueError("no user vectors to measure the index with")
    vectors = EmbeddingSet.open(folder)
    tuning, measuring = _halves(np.asarray(sample_SD, dtype=np.float32), seed)
    parameters: dict[str, Any] = {}
    effort, sha256, start = None, None, time.perf_counter()
    if kind != "exact":
        parameters, effort, sha256 = _build_faiss(folder, kind, vectors, tuning, k, recall, seed)
    seconds = time.perf_counter() - start
    record = IndexRecord(kind, model_fingerprint, vectors.fingerprint, sha256, effort, {})
    write_record(folder, record)
    if kind == "exact":
        (folder / FAISS_FILE).unlink(missing_ok=True)

    exact_SK = ExactIndex(vectors).search(measuring, k)[1]
    result = {
        "kind": kind,
        "parameters": parameters,
        "effort": None if effort is None else {"depth": effort.depth, "factor": effort.factor},
        "k": exact_SK.shape[1],
        "wanted_recall": recall,
        **measured(open_index(folder), measuring, exact_SK),
        "bytes": sum(file.stat().st_size for file in folder.iterdir() if file.name != INDEX_FILE),
        "build_seconds": seconds,
    }
    write_record(folder, IndexRecord(**{**record.__dict__, "measured": result}))
    return result


def _build_faiss(
    folder: Path,
    kind: str,
    vectors: EmbeddingSet,
    tuning: NDArray[np.float32],
    k: int,
    recall: float,
    seed: int,
) -> tuple[dict[str, Any], Effort, str]:
    """Write `index.faiss`; returns its parameters, effort and sha256."""
    faiss = import_faiss(kind)
    index, parameters = (new_hnsw if kind == "hnsw" else new_ivfpq)(faiss, vectors, seed)
    exact_SK = ExactIndex(vectors).search(tuning, k)[1]
    effort = least_effort(faiss, kind, index, vectors, tuning, exact_SK, recall)
    with atomic_file(folder / FAISS_FILE) as temporary:
        faiss.write_index(index, str(temporary))
        sha256 = sha256_of(temporary)
    return parameters, effort, sha256


def _halves(sample_SD: NDArray[np.float32], seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Users to tune with and others to measure with; a single one serves for both."""
    if len(sample_SD) == 1:
        return sample_SD, sample_SD
    chosen = np.random.default_rng(seed).permutation(len(sample_SD))[:_MOST_USERS]
    return sample_SD[chosen[::2]], sample_SD[chosen[1::2]]
