"""One seed of a retrieval run: training, the item vectors as they are served, what the test requests find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ctr.engines.checkpoint import Checkpoints, LoopState
from ctr.engines.distributed import Distributed
from ctr.engines.ranks import ProcessGroup, Ranks
from ctr.retrieval.collapse import spread
from ctr.retrieval.config import RetrievalConfig
from ctr.retrieval.data import RetrievalData
from ctr.retrieval.engine import WholeBatches
from ctr.retrieval.loop import RECALL, RetrievalEngine, Training
from ctr.retrieval.measure import quality
from ctr.retrieval.model import RetrievalTask, TwoTowers
from ctr.retrieval.saving import RetrievalSettings, build_model
from ctr.retrieval.start import fit_start
from ctr.retrieval.towers import POPULARITY
from ctr.retrieval.vectors import item_vectors, user_vectors
from moonrec.embedding_set import EmbeddingSetWriter

_STAGE = "retrieval"
_K = int(RECALL.partition("@")[2])


def train_seed(
    config: RetrievalConfig,
    settings: RetrievalSettings,
    data: RetrievalData,
    ranks: Ranks,
    checkpoints: Checkpoints,
    log: Callable[..., None] | None,
) -> tuple[TwoTowers | None, dict[str, Any]]:
    """Train with `settings.seed`, from the last checkpoint on if it is this seed's.

    Returns:
        The plain model with its best weights, and what `metrics.json` tells of the training; on rank 0
        (elsewhere None and nothing).

    Raises:
        UserError: the loss is not finite any more, or the disk is full.
    """
    seed = settings.seed

    def fresh(device: str) -> TwoTowers:
        model = build_model(settings, data.vocabulary, data.frozen, device)
        fit_start(model, data, seed)
        return model

    # Filled with the weights of the moment, to measure them and to be saved.
    plain = fresh("cpu") if ranks.rank == 0 else None

    def validate(weights: dict[str, Tensor]) -> dict[str, float]:
        assert plain is not None
        plain.load_state_dict(weights)
        return _validated(plain, data)

    engine = _engine(config, fresh, ranks, seed)
    stage = checkpoints.stage(seed, _STAGE)
    training = Training(engine, data, config, seed, stage, validate, log)
    state = training.run()
    weights = engine.state_dict()
    if plain is None:
        return None, {}
    plain.load_state_dict(weights)
    return plain.eval(), _told(plain, data, state, training.plan().steps_per_epoch)


def write_item_vectors(model: TwoTowers, data: RetrievalData, folder: Path, fingerprint: str) -> None:
    """Write the catalogue's vectors as an embedding set.

    Raises:
        UserError: the disk is full.
    """
    metadata: dict[str, object] = {"encoder_fingerprint": fingerprint, "modality": "retrieval"}
    first = 0
    with EmbeddingSetWriter(folder, model.dim, metadata) as writer:
        for vectors_mD in item_vectors(model, data.items, data.catalogue.code_M):
            writer.write(data.catalogue.ids.slice(first, len(vectors_mD)), vectors_mD)
            first += len(vectors_mD)


def _engine(
    config: RetrievalConfig, fresh: Callable[[str], TwoTowers], ranks: Ranks, seed: int
) -> RetrievalEngine:
    rates = (config.learning_rate, config.sparse_learning_rate)
    if isinstance(ranks, ProcessGroup):
        model = fresh("meta")
        return Distributed(model, *rates, seed, ranks, task=RetrievalTask(model))
    return WholeBatches(fresh("cpu"), *rates)


def _validated(model: TwoTowers, data: RetrievalData) -> dict[str, float]:
    vectors_ND = np.concatenate(list(item_vectors(model, data.items, data.catalogue.code_M)))
    user_QD = user_vectors(model, data.validation.rows, data.items)
    found: Mapping[str, float | None] = {
        **quality(data.validation, user_QD, vectors_ND, _K),
        **spread(vectors_ND[:, :-POPULARITY]),
        "temperature": float(model.softmax.temperature.detach()),
    }
    return {name: value for name, value in found.items() if value is not None}


def _told(model: TwoTowers, data: RetrievalData, state: LoopState, per_epoch: int) -> dict[str, Any]:
    assert state.best is not None
    return {
        "seconds": state.seconds,
        "samples_per_second": state.samples / max(state.seconds, 1e-9),
        "rows": len(data.train),
        "epochs": -(-state.step // per_epoch),
        "best_epoch": -(-state.best["step"] // per_epoch),
        "validation": {RECALL: state.best[RECALL], "requests": len(data.validation)},
        "temperature": float(model.softmax.temperature.detach()),
    }
