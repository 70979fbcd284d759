"""One seed of a run: MAKE's pretraining where the model has it, training, the scores of the test rows.

Legend: R test impressions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.config import TrainConfig
from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.data.batch import Batch, build_batch
from ctr.data.impressions import Impressions
from ctr.data.run_data import RunData
from ctr.early_stopping import EarlyStopping
from ctr.engines.checkpoint import Checkpoints, LoopState
from ctr.engines.distributed import Distributed
from ctr.engines.engine import Engine
from ctr.engines.one_process import OneProcess
from ctr.engines.pretraining import DistributedPretraining, Pretraining
from ctr.engines.ranks import ProcessGroup, Ranks
from ctr.evaluation import auc_by_frequency, probabilities, test_metrics
from ctr.model import CtrModel, FrozenSets, Ranker
from ctr.model_settings import ModelSettings
from ctr.saving import build_model
from ctr.training import score, train
from moonrec.calibration import calibration

MAKE, CLICK = "make", "click"
_SCALE_ROWS, _SCALE_BEHAVIOURS = 16_384, 1 << 21


@dataclass(frozen=True)
class Trained:
    """A seed's model.

    Attributes:
        engine: holds it; its best weights, where there was validation.
        result: `seed`, `train`, `test`, `groups`, `calibration` and, with validation, `validation`, as in
            `metrics.json`; on rank 0 (elsewhere empty).
        logit_R: of the test rows; on rank 0.
    """

    engine: Engine
    result: dict[str, Any]
    logit_R: NDArray[np.float32] | None


def train_seed(
    config: TrainConfig,
    settings: ModelSettings,
    data: RunData,
    ranks: Ranks,
    checkpoints: Checkpoints,
    log: Callable[..., None] | None,
) -> Trained:
    """Train with `settings.seed` from the last checkpoint on, if it is this seed's, and score the test rows.

    Raises:
        UserError: the loss is not finite any more, or the disk is full.
    """
    assert config.batch_size is not None
    seed = settings.seed
    model = build_model(
        settings,
        data.vocabulary,
        FrozenSets(_own(data.frozen), _own(data.query_frozen)),
        "meta" if isinstance(ranks, ProcessGroup) else "cpu",
    )
    sample = _sample(data.train, seed)
    model.ranker.fit(sample)
    pretraining = 0.0
    if model.ranker.make_modules():
        pretraining = _pretrain(config, model, sample, data, ranks, checkpoints, seed, log)
    engine = _engine(config, model, seed, ranks)
    if isinstance(engine, OneProcess):
        engine.compile(build_batch(data.train, np.arange(1), local=True))
    stage = checkpoints.stage(seed, CLICK, pretraining)
    stopping = None
    if data.validation is not None:
        stopping = EarlyStopping(engine, data.validation, stage, config.patience)
    state = train(
        engine,
        data.train,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=seed,
        unknown_share=config.unknown_share,
        log=partial(log, stage=CLICK) if log is not None else None,
        stage=stage,
        stopping=stopping,
    )
    if state.best is not None and state.best["step"] != state.step:
        stage.restore_best(engine, state)
    logit_R = score(engine, data.test)
    result = _result(seed, data, state, logit_R) if logit_R is not None else {}
    return Trained(engine, result, logit_R)


def _sample(train_rows: Impressions, seed: int) -> Batch:
    """Training rows to learn the scales of inputs from: many, but no more behaviours than fit in memory."""
    count = min(_SCALE_ROWS, len(train_rows))
    rows = np.random.default_rng(seed).choice(len(train_rows), count, replace=False)
    length = train_rows.end_R[rows].astype(np.int64) - train_rows.start_R[rows]
    if train_rows.search is not None:
        length = np.minimum(length, train_rows.search.top)
    fitting = int(np.searchsorted(np.cumsum(length), _SCALE_BEHAVIOURS, side="right"))
    return build_batch(train_rows, rows[: max(1, fitting)], local=True)


def _pretrain(
    config: TrainConfig,
    model: CtrModel,
    sample: Batch,
    data: RunData,
    ranks: Ranks,
    checkpoints: Checkpoints,
    seed: int,
    log: Callable[..., None] | None,
) -> float:
    """Train the MAKE modules, and freeze them; a checkpoint of the next stage holds what they learnt.

    Returns:
        Seconds that it took; 0 where there is such a checkpoint, which knows them.
    """
    seconds = 0.0
    model.ranker.to(ranks.device)
    if checkpoints.position(seed, CLICK) is None:
        assert config.batch_size is not None
        seconds = train(
            _pretraining(model.ranker, config.learning_rate, ranks),
            data.train,
            epochs=config.make_epochs,
            batch_size=config.batch_size,
            seed=seed,
            order=1,
            log=partial(log, stage=MAKE) if log is not None else None,
            stage=checkpoints.stage(seed, MAKE),
        ).seconds
        model.ranker.eval()
        inputs = model.ranker.make_inputs(sample.to(ranks.device))
        for module, module_inputs in zip(model.ranker.make_modules(), inputs, strict=True):
            module.fit_outputs(module_inputs)
    for module in model.ranker.make_modules():
        module.freeze()
    return seconds


def _own(sets: Mapping[str, FrozenEmbeddings]) -> dict[str, FrozenEmbeddings]:
    """Modules for one model over the same vectors: where it is moved to, the run's data does not follow."""
    return {name: FrozenEmbeddings(one.vectors) for name, one in sets.items()}


def _engine(config: TrainConfig, model: CtrModel, seed: int, ranks: Ranks) -> Engine:
    rates = (config.learning_rate, config.sparse_learning_rate)
    if isinstance(ranks, ProcessGroup):
        return Distributed(model, *rates, seed, ranks)
    return OneProcess(model, *rates)


def _pretraining(ranker: Ranker, learning_rate: float, ranks: Ranks) -> Pretraining:
    if isinstance(ranks, ProcessGroup):
        return DistributedPretraining(ranker, learning_rate, ranks)
    return Pretraining(ranker, learning_rate)


def _result(seed: int, data: RunData, state: LoopState, logit_R: NDArray[np.float32]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "seed": seed,
        "test": test_metrics(data.test, logit_R),
        "train": {
            "seconds": state.seconds,
            "samples_per_second": state.samples / max(state.seconds, 1e-9),
            "rows": len(data.train),
        },
        "groups": auc_by_frequency(data.train, data.test, logit_R),
        "calibration": calibration(data.test.label_R, probabilities(logit_R)),
    }
    if state.pretraining_seconds:
        result["train"]["pretraining_seconds"] = state.pretraining_seconds
    if state.best is not None and data.validation is not None:
        quality = {name: state.best[name] for name in ("auc", "gauc", "logloss")}
        result["validation"] = {
            **quality,
            "rows": len(data.validation),
            "best_step": state.best["step"],
            "stopped": state.stopped,
        }
    return result
