"""One run of one of the retrieval models that are compared, on either side, judged in the same way.

Both sides get the same targets and histories (rival_data.py) and the same widths, and are asked the same
requests with the same items left out; each keeps its own optimizer, negatives and towers.

Legend: Q requests, N items, D width of the vectors, K candidates.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from children import run_child
from numpy.typing import NDArray
from rival_data import Handover

from ctr.retrieval.candidate_metrics import retrieval_metrics
from ctr.retrieval.popularity import popularity_candidates
from moonrec.nearest import top_k

DNN, SBC = "torch-rechub YoutubeDNN", "torch-rechub YoutubeSBC"
DSSM, CORRECTED = "torch-rechub DSSM, in-batch", "torch-rechub DSSM, in-batch, corrected"
CORRECTED_FROZEN = "torch-rechub DSSM, in-batch, corrected + frozen"
IDS, FROZEN = "moonrec ids only", "moonrec + frozen"
POPULARITY = "popularity"
PEERS = {
    DNN: ("dnn", False),
    SBC: ("sbc", False),
    DSSM: ("dssm", False),
    CORRECTED: ("dssm-corrected", False),
    CORRECTED_FROZEN: ("dssm-corrected", True),
}
OURS = {IDS: False, FROZEN: True}

WIDTH, VECTOR, HISTORY = 32, 64, 50
QUALITY = ("recall@10", "recall@100", "ndcg@10", "coverage@100")
_K = 100
_PATIENCE = 2

Numbers = dict[str, float]


@dataclass(frozen=True)
class Effort:
    """How long a model is trained for its quality.

    Attributes:
        epochs: at most.
        seconds: no epoch begins later; of the other side only.
    """

    epochs: int
    seconds: float


@dataclass(frozen=True)
class Bench:
    """Where things are, and what all runs share.

    Attributes:
        source: a folder with `events.parquet` and `embeddings/`.
        handovers: the rows in the other side's form, without and with frozen vectors.
        scratch: where runs write.
        python: the interpreter of the other side's environment.
        threads, batch: of every run.
        steps: that the other side's speed is measured over.
    """

    source: Path
    handovers: Mapping[bool, Handover]
    scratch: Path
    python: Path
    threads: int
    batch: int
    steps: int

    def run(self, name: str, seed: int, effort: Effort | None) -> Numbers:
        """One run of a model: its speed, and with an effort the quality that it reaches.

        Raises:
            RuntimeError: the run failed, or our side was asked other requests.
        """
        return self._peer(name, seed, effort) if name in PEERS else self._ours(name, seed, effort)

    def popularity(self, frozen: bool) -> Numbers:
        """Quality of the most frequent items, which knows nobody."""
        handover = self.handovers[frozen]
        item_QK = popularity_candidates(handover.taken_N, handover.test.masked, _K)
        return _quality(item_QK, handover)

    def _peer(self, name: str, seed: int, effort: Effort | None) -> Numbers:
        model, frozen = PEERS[name]
        handover, vectors = self.handovers[frozen], self.scratch / "vectors.npz"
        options = {
            "data": str(handover.folder),
            "model": model,
            "content": frozen,
            "batch": self.batch,
            "width": WIDTH,
            "vector": VECTOR,
            "seed": seed,
            "steps": self.steps,
            "vectors": str(vectors),
            "fit": None if effort is None else asdict(effort) | {"patience": _PATIENCE},
        }
        result: Numbers = run_child(str(self.python), "rival_side.py", options, self.threads)
        if effort is None:
            return result
        with np.load(vectors, allow_pickle=False) as file:
            return result | _judged(file["user"], file["item"], handover)

    def _ours(self, name: str, seed: int, effort: Effort | None) -> Numbers:
        frozen = OURS[name]
        options = our_options(self.source, self.scratch / name.replace(" ", "-"), frozen) | {
            "batch_size": self.batch,
            "epochs": 1 if effort is None else effort.epochs,
            "patience": _PATIENCE,
            "seed": seed,
        }
        metrics = run_child(sys.executable, "rival_ours.py", options, self.threads)
        expected = self.popularity(frozen)
        if any(abs(metrics[POPULARITY][key] - expected[key]) > 1e-9 for key in QUALITY):
            raise RuntimeError(f"{name}: {metrics[POPULARITY]} of popularity, expected {expected}")
        speed = {key: metrics["train"][key] for key in ("samples_per_second", "seconds")}
        if effort is None:
            return speed
        epochs = {key: metrics["train"][key] for key in ("epochs", "best_epoch")}
        return speed | epochs | {key: metrics["test"][key] for key in QUALITY}


def our_options(source: Path, out: Path, frozen: bool) -> dict[str, Any]:
    """What both sides are given, as options of `ctr.retrieval.config.RetrievalConfig`."""
    return {
        "events": str(source / "events.parquet"),
        "out": str(out),
        "embeddings": str(source / "embeddings") if frozen else None,
        "history": HISTORY,
        "dim": VECTOR,
        "embedding_dim": WIDTH,
    }


def _judged(user_QD: NDArray[np.float32], item_ND: NDArray[np.float32], handover: Handover) -> Numbers:
    masked = handover.test.masked
    _, item_QK = top_k(user_QD, lambda: [item_ND], _K, (masked.values, masked.offsets_R1))
    return _quality(item_QK, handover)


def _quality(item_QK: NDArray[np.int64], handover: Handover) -> Numbers:
    test = handover.test
    metrics, _ = retrieval_metrics(
        item_QK, test.query_P, test.item_P, test.positives_Q, len(handover.taken_N), (10, _K)
    )
    return {key: float(metrics[key] or 0.0) for key in QUALITY}
