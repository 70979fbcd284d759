"""A whole retrieval run: a log and an embedding set in; towers, an index, metrics and a report out.

Started again after a kill, it goes on where the last checkpoint was. Finished seeds are not trained again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.allocator import give_back_memory, keep_memory
from ctr.data.impressions import Impressions
from ctr.engines.checkpoint import Checkpoints
from ctr.engines.deterministic import deterministic
from ctr.engines.ranks import Ranks, launched_ranks, together
from ctr.model_settings import SavedSet
from ctr.retrieval.config import RetrievalConfig, check, plain_options
from ctr.retrieval.data import RetrievalData, load_data, open_inputs
from ctr.retrieval.index import build_index
from ctr.retrieval.index_folder import INDEX, index_folder
from ctr.retrieval.measure import Baselines, baselines, counts_of, coverage, measure, warnings_of
from ctr.retrieval.model import TwoTowers
from ctr.retrieval.saving import RetrievalSettings, model_fingerprint, save_model
from ctr.retrieval.seed_means import over_seeds
from ctr.retrieval.train_seed import train_seed, write_item_vectors
from ctr.retrieval.user_sample import save_sample
from ctr.retrieval.vectors import user_vectors
from moonrec.embedding_set import EmbeddingSet
from moonrec.runs import Run, open_run
from moonrec.timestamps import readable

__all__ = ["RetrievalConfig", "train_retrieval"]

_BATCH, _SMALLEST_BATCH, _FEWEST_STEPS = 1_024, 128, 32
# Users whose vectors tune an index.
_SAMPLE = 2_000


def train_retrieval(config: RetrievalConfig) -> dict[str, Any]:
    """Train two towers, build the index, measure and write the run folder.

    Runs in one process, or under `torchrun` on all of its ranks; rank 0 writes.

    Returns:
        The content of `metrics.json` (on other ranks than 0: an empty dict).

    Raises:
        UserError: an option or an input is not usable, or the disk is full.
    """
    check(config)
    with launched_ranks() as ranks, deterministic(ranks), ExitStack() as stack:
        run: Run | None = None
        prints: dict[str, str] = {}
        with together(ranks):
            inputs = open_inputs(config)
            if ranks.rank == 0:
                prints = {name: table.fingerprint() for name, table in inputs.tables.items()}
                if inputs.embeddings is not None:
                    prints["embeddings"] = inputs.embeddings.fingerprint
                options = plain_options(config)
                run = stack.enter_context(
                    open_run(config.out, "train-retrieval", options, prints, config.seed)
                )
        with together(ranks, Path(config.out)):
            data = load_data(config, inputs)
        config = replace(config, batch_size=config.batch_size or default_batch_size(len(data.train)))
        give_back_memory()
        keep_memory()
        metrics = _train_all(config, data, ranks, run)
        if run is not None:
            _write(run, config, data, metrics, prints)
        ranks.wait()
    return metrics


def default_batch_size(rows: int) -> int:
    """1,024, halved until an epoch has at least 32 steps (but not below 128): more rows, more negatives."""
    size = _BATCH
    while size > _SMALLEST_BATCH and rows < _FEWEST_STEPS * size:
        size //= 2
    return size


def _train_all(config: RetrievalConfig, data: RetrievalData, ranks: Ranks, run: Run | None) -> dict[str, Any]:
    """Train every seed that is not finished; the metrics of all."""
    checkpoints = Checkpoints(Path(config.out), ranks, config.checkpoint_minutes, run)
    rival: Baselines | None = None
    with together(ranks):
        if run is not None:
            rival = baselines(data)
    for seed in range(config.seed + len(checkpoints.finished), config.seed + config.seeds):
        settings = RetrievalSettings(
            embedding_dim=config.embedding_dim,
            dim=config.dim,
            history=config.history,
            mask_history=config.mask_history,
            seed=seed,
            embeddings=_saved_set(data),
            encoder=data.encoder,
        )
        log = partial(run.log, seed=seed) if run is not None else None
        model, told = train_seed(config, settings, data, ranks, checkpoints, log)
        result: dict[str, Any] = {}
        with together(ranks, Path(config.out)):
            if run is not None and model is not None and rival is not None:
                result = {"seed": seed, "train": told} | _finish(run, config, settings, model, data, rival)
        checkpoints.finish_seed(result)
    return over_seeds(checkpoints.finished) if run is not None else {}


def _finish(
    run: Run,
    config: RetrievalConfig,
    settings: RetrievalSettings,
    model: TwoTowers,
    data: RetrievalData,
    rival: Baselines,
) -> dict[str, Any]:
    """Measure a seed's model; the first one is saved with its index."""
    first = settings.seed == config.seed
    user_QD = user_vectors(model, data.test.rows, data.items)
    with ExitStack() as stack:
        if not first:
            folder = Path(stack.enter_context(TemporaryDirectory(dir=run.path, prefix=".of-seed-")))
            write_item_vectors(model, data, folder, "")
            return measure(data, rival, user_QD, EmbeddingSet.open(folder), settings.seed)
        sample_SD = user_vectors(model, _some(data.train, config.seed), data.items)
        fingerprint = _save(run, settings, model, data, sample_SD)
        folder = stack.enter_context(index_folder(run.path / INDEX))
        write_item_vectors(model, data, folder, fingerprint)
        result = measure(data, rival, user_QD, EmbeddingSet.open(folder), settings.seed)
        about = build_index(
            folder, config.index, sample_SD, model_fingerprint=fingerprint, seed=settings.seed
        )
    return result | {"index": {config.index: about}}


def _save(
    run: Run,
    settings: RetrievalSettings,
    model: TwoTowers,
    data: RetrievalData,
    sample_SD: NDArray[np.float32],
) -> str:
    """Save a model with what serving wants beside it; its fingerprint."""
    count_N = counts_of(data)
    known = np.flatnonzero(count_N)
    order = known[np.argsort(-count_N[known], kind="stable")]
    popular = (data.catalogue.ids.take(order), count_N[order])
    save_model(run.model_dir, model.state_dict(), settings, data.vocabulary, popular)
    save_sample(run.model_dir, sample_SD)
    return model_fingerprint(run.model_dir)


def _write(
    run: Run,
    config: RetrievalConfig,
    data: RetrievalData,
    metrics: dict[str, Any],
    prints: Mapping[str, str],
) -> None:
    metrics["coverage"] = coverage(data)
    metrics["split"] = {
        "test_from": None if data.moment is None else readable(data.moment),
        "train_rows": len(data.train),
        "validation_requests": len(data.validation),
        "test_requests": len(data.test),
        "repeats_left_out": data.repeats,
    }
    metrics["warnings"] = warnings_of(metrics)
    for warning in metrics["warnings"]:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    # Plotting takes memory of its own: not before that of training is free.
    del data
    give_back_memory()
    from ctr.retrieval.retrieval_report import write_report

    write_report(run.path / "report.html", metrics, run.history, plain_options(config), prints)
    run.save_metrics(metrics)


def _saved_set(data: RetrievalData) -> SavedSet | None:
    if data.frozen is None or data.fingerprint is None:
        return None
    return SavedSet(data.frozen.dimension, data.fingerprint)


def _some(rows: Impressions, seed: int) -> Impressions:
    """Some training rows, as requests."""
    count = min(_SAMPLE, len(rows))
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
    return rows.at(chosen)
