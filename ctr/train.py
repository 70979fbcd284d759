"""A whole ranking run: tables and an embedding set in, a run folder with model, metrics and report out.

Legend: R test impressions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr.allocator import keep_memory
from ctr.baseline import top3_cosine
from ctr.batch import build_batch
from ctr.ctr_report import write_report
from ctr.distributed import Distributed, launched_by_torchrun, process_group
from ctr.evaluation import auc_by_frequency, probabilities, ranking_quality, test_metrics
from ctr.impressions import coverage
from ctr.model import CONTENT_MODULES, CtrModel
from ctr.one_process import OneProcess
from ctr.run_data import RunData, load_run_data
from ctr.saving import ModelSettings, build_model, save_model
from ctr.training import Engine, score, train
from moonrec.errors import UserError
from moonrec.runs import Run, open_run

_SCALE_SAMPLE = 16_384
_BATCH, _SMALLEST_BATCH, _FEWEST_STEPS = 1_024, 64, 128


@dataclass(frozen=True)
class TrainConfig:
    """Options of a run.

    Attributes:
        impressions, test: tables of impressions, to learn from and to measure on.
        events: what users did; histories come from here.
        out: the run folder to write.
        items: the catalogue; with it the metrics tell how much of it the embeddings cover.
        embeddings: an embedding set; None for the baseline of ids only.
        content: how the vectors enter the model, names out of concat, simtier, cube, or `none` alone.
            None means cube where there are embeddings.
        history: the longest history that a row sees.
        embedding_dim: width of the trained ids.
        batch_size: rows of a step, over all processes together. None means 1,024, or less where an epoch
        would
            have few steps.
        epochs: passes over the rows; ids overfit in the second.
        learning_rate: of the dense parts (Adam).
        sparse_learning_rate: of the id tables (row-wise Adagrad).
        seed: of initial values and of the order of rows.
    """

    impressions: Path | str
    test: Path | str
    events: Path | str
    out: Path | str
    items: Path | str | None = None
    embeddings: Path | str | None = None
    content: tuple[str, ...] | None = None
    history: int = 50
    embedding_dim: int = 16
    batch_size: int | None = None
    epochs: int = 1
    learning_rate: float = 1e-3
    sparse_learning_rate: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class _Outcome:
    """What training left on this rank; weights and logits are on rank 0."""

    speed: dict[str, float]
    logit_R: NDArray[np.float32] | None
    weights: Mapping[str, Tensor]


def train_ctr(config: TrainConfig) -> dict[str, Any]:
    """Train, measure and write the run folder.

    Runs in one process, or under `torchrun` on all of its ranks; rank 0 writes.

    Returns:
        The content of `metrics.json` (on other ranks than 0: an empty dict).

    Raises:
        UserError: an option or an input is not usable.
    """
    config = _resolved(config)
    keep_memory()
    data = load_run_data(
        impressions=config.impressions,
        test=config.test,
        events=config.events,
        items=config.items,
        embeddings=config.embeddings,
        history=config.history,
    )
    config = replace(config, batch_size=config.batch_size or default_batch_size(len(data.train)))
    content = tuple(name for name in config.content or () if name != "none")
    settings = ModelSettings(
        content=content,
        embedding_dim=config.embedding_dim,
        history=config.history,
        seed=config.seed,
        embeddings_fingerprint=data.embeddings_fingerprint if content else None,
    )
    rates = (config.learning_rate, config.sparse_learning_rate)
    if not (launched_by_torchrun() or torch.cuda.is_available()):
        with _deterministic():
            return _run(config, settings, data, OneProcess(_fitted_model(settings, data), *rates))
    with process_group() as device:
        model = _fitted_model(settings, data, table_device="meta")
        return _run(config, settings, data, Distributed(model, *rates, config.seed, device))


def default_batch_size(rows: int) -> int:
    """1,024, halved until an epoch has at least 128 steps (but not below 64).

    One epoch is all that ids stand, so on a small file the step must be small: of 20,000 rows of a film log,
    steps of 1,024 reached AUC .674, steps of 128 reached .730 (our measurement).
    """
    size = _BATCH
    while size > _SMALLEST_BATCH and rows < _FEWEST_STEPS * size:
        size //= 2
    return size


def _resolved(config: TrainConfig) -> TrainConfig:
    """Check the options, and fill in the content that was not chosen."""
    content = config.content or (("cube",) if config.embeddings is not None else ("none",))
    for name in content:
        if name not in ("none", *CONTENT_MODULES):
            raise UserError(f"--content {name}: expected names out of none, {', '.join(CONTENT_MODULES)}")
    if len(set(content)) < len(content) or ("none" in content and len(content) > 1):
        raise UserError(f"--content {','.join(content)}: expected each name once, and none only by itself")
    if content != ("none",) and config.embeddings is None:
        raise UserError(f"--content {','.join(content)} reads frozen vectors; give them with --embeddings")
    for name in ("history", "embedding_dim", "batch_size", "epochs"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected a whole number above 0")
    for name in ("learning_rate", "sparse_learning_rate"):
        rate = getattr(config, name)
        if not (0 < rate < float("inf")):
            raise UserError(f"--{name.replace('_', '-')} {rate}: expected a number above 0")
    if config.embedding_dim % 4:
        # A limit of fbgemm's kernels; a model should not train in one engine only.
        raise UserError(f"--embedding-dim {config.embedding_dim}: expected a multiple of 4")
    return replace(config, content=content)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Same seed, same machine, same numbers to the last digit."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    # That option would also write every new tensor twice, to make reads of unset memory repeatable. We read
    # none.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _fitted_model(settings: ModelSettings, data: RunData, table_device: str = "cpu") -> CtrModel:
    """The untrained model, its content scales learnt from a sample of the training rows."""
    model = build_model(settings, data.vocabulary, data.frozen, table_device)
    sample = np.random.default_rng(settings.seed).permutation(len(data.train))[:_SCALE_SAMPLE]
    model.ranker.fit(build_batch(data.train, sample))
    return model


def _run(config: TrainConfig, settings: ModelSettings, data: RunData, engine: Engine) -> dict[str, Any]:
    if engine.rank != 0:
        _fit(config, data, engine, run=None)
        return {}
    options = {name: _plain(value) for name, value in asdict(config).items()}
    with open_run(config.out, "train-ctr", options, data.inputs, config.seed) as run:
        outcome = _fit(config, data, engine, run)
        assert outcome.logit_R is not None
        metrics = _metrics(data, outcome)
        save_model(run.model_dir, outcome.weights, settings, data.vocabulary)
        _write_scores(run.path / "test_scores.parquet", data.test_table, outcome.logit_R)
        write_report(run.path / "report.html", metrics, run.history, options, data.inputs)
        run.save_metrics(metrics)
    return metrics


def _fit(config: TrainConfig, data: RunData, engine: Engine, run: Run | None) -> _Outcome:
    """Train and score the test rows; every rank does this together with the others."""
    assert config.batch_size is not None
    speed = train(
        engine,
        data.train,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        log=run.log if run is not None else None,
    )
    return _Outcome(speed, score(engine, data.test), engine.state_dict())


def _metrics(data: RunData, outcome: _Outcome) -> dict[str, Any]:
    assert outcome.logit_R is not None
    shares: dict[str, float | None] = {"target": None, "history": None}
    baseline = None
    if data.frozen is not None:
        shares = coverage(data.test)
        baseline = ranking_quality(data.test, top3_cosine(data.test, data.frozen))
    if data.catalogue_coverage is not None:
        shares["catalogue"] = data.catalogue_coverage
    return {
        "test": test_metrics(data.test, outcome.logit_R),
        "train": {**outcome.speed, "rows": len(data.train)},
        "coverage": shares,
        "baseline": {"top3_cosine": baseline},
        "groups": auc_by_frequency(data.train, data.test, outcome.logit_R),
    }


def _write_scores(path: Path, test_table: pa.Table, logit_R: NDArray[np.float32]) -> None:
    """The test rows with the model's probabilities, timestamps in microseconds since 1970 (UTC)."""
    times = test_table["timestamp"].cast(pa.timestamp("us", tz="UTC"))
    table = test_table.set_column(test_table.column_names.index("timestamp"), "timestamp", times)
    pq.write_table(table.append_column("score", pa.array(probabilities(logit_R))), path)


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
