"""A whole ranking run: tables and embedding sets in, a run folder with model, metrics and report out.

Started again after a kill, it goes on where the last checkpoint was: with the seed, the stage (MAKE's
pretraining, then the model that predicts clicks) and the step. Finished seeds are not trained again.

Legend: R test impressions.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.allocator import give_back_memory, keep_memory
from ctr.baseline import top3_cosine
from ctr.config import TrainConfig, plain_options, resolved
from ctr.data.data_inputs import fingerprints, open_inputs
from ctr.data.impressions import Impressions, coverage
from ctr.data.run_data import RunData, load_run_data
from ctr.engines.checkpoint import Checkpoints
from ctr.engines.deterministic import deterministic
from ctr.engines.ranks import Ranks, launched_ranks, together
from ctr.evaluation import early_warnings, lowest_coverage, probabilities, ranking_quality, warnings_of
from ctr.model_settings import ModelSettings, SavedSet
from ctr.saving import save_model
from ctr.score_file import SCORE, TOP3_COSINE, add_scores, seed_column, write_scores
from ctr.search.long_histories import history_search, searched
from ctr.seed_results import combined
from ctr.train_seed import train_seed
from moonrec.errors import UserError
from moonrec.runs import Run, open_run, partial_folder

__all__ = ["TrainConfig", "default_batch_size", "train_ctr"]

_BATCH, _SMALLEST_BATCH, _FEWEST_STEPS = 1_024, 64, 128


def train_ctr(config: TrainConfig) -> dict[str, Any]:
    """Train, measure and write the run folder.

    Runs in one process, or under `torchrun` on all of its ranks; rank 0 writes. The output folder has to be
    on a disk that all of them see.

    Returns:
        The content of `metrics.json` (on other ranks than 0: an empty dict).

    Raises:
        UserError: an option or an input is not usable, or the disk is full.
    """
    config = resolved(config)
    with launched_ranks() as ranks, deterministic(ranks), ExitStack() as stack:
        run: Run | None = None
        inputs: dict[str, str] = {}
        with together(ranks):
            if ranks.rank == 0:
                config, inputs = _with_inputs(config)
                options = plain_options(config)
                run = stack.enter_context(open_run(config.out, "train-ctr", options, inputs, config.seed))
        config = replace(config, batch_size=ranks.from_first(config.batch_size))
        data = _load(config, ranks)
        give_back_memory()
        keep_memory()
        # Both before training: only then are the vectors surely where they were loaded.
        about, top3_R = _about_inputs(config, data, ranks)
        metrics = _train_all(config, data, ranks, run, top3_R)
        if run is not None:
            # Plotting takes memory of its own: not before that of training is free.
            del data
            give_back_memory()
            from ctr.ctr_report import write_report

            metrics |= about
            metrics["warnings"] = warnings_of(metrics, config.epochs)
            write_report(run.path / "report.html", metrics, run.history, plain_options(config), inputs)
            run.save_metrics(metrics)
        ranks.wait()
        if run is not None:
            for folder in run.path.glob("data-*"):
                shutil.rmtree(folder)
    return metrics


def default_batch_size(rows: int) -> int:
    """1,024, halved until an epoch has at least 128 steps (but not below 64).

    One epoch is all that ids stand, so on a small file the step must be small: of 20,000 rows of a film log,
    steps of 1,024 reached AUC .674, steps of 128 reached .730 (our measurement).
    """
    size = _BATCH
    while size > _SMALLEST_BATCH and rows < _FEWEST_STEPS * size:
        size //= 2
    return size


def _with_inputs(config: TrainConfig) -> tuple[TrainConfig, dict[str, str]]:
    """The options with the size of a batch, and a fingerprint per input."""
    inputs = open_inputs(config.data)
    rows = round(inputs.tables["impressions"].count_rows() * (1 - (config.validation_share or 0.0)))
    found = {name: table.fingerprint() for name, table in inputs.tables.items()}
    _check_different(config, found)
    found |= {f"embeddings:{name}": value for name, value in fingerprints(inputs).items()}
    return replace(config, batch_size=config.batch_size or default_batch_size(rows)), found


def _check_different(config: TrainConfig, fingerprints: Mapping[str, str]) -> None:
    """Refuse rows that would be learnt from and measured on, or stopped by and measured on."""
    for one, other in combinations(("impressions", "validation", "test"), 2):
        if one in fingerprints and fingerprints[one] == fingerprints.get(other):
            raise UserError(
                f"--{other} {getattr(config, other)}: is the same table as --{one} {getattr(config, one)}; "
                "expected other rows, give another file"
            )


def _load(config: TrainConfig, ranks: Ranks) -> RunData:
    """Prepare the data once on each machine; all of its processes map the same files."""
    folder = partial_folder(config.out) / f"data-{ranks.node}"
    data = None
    with together(ranks, Path(config.out)):
        if ranks.local_rank == 0:
            # What a killed run left is of no use: half of it may be missing.
            shutil.rmtree(folder, ignore_errors=True)
            data = load_run_data(config.data, folder)
    with together(ranks):
        data = load_run_data(config.data, folder, build=False) if data is None else data
        if not _has_both_classes(data.train):
            raise UserError(
                f"--impressions {config.impressions}: its training rows hold one class of labels only, so "
                "there is nothing to learn; give clicks (1) and rows without one (0)"
            )
        if data.validation is not None and not _has_both_classes(data.validation):
            raise UserError(
                "--validation: its rows hold one class of labels only, so there is no AUC to stop by; give "
                "others, or leave it out"
            )
    search = history_search(data.train, data.frozen, config.history, config.top)
    return replace(
        data,
        train=searched(data.train, search),
        validation=None if data.validation is None else searched(data.validation, search),
        test=searched(data.test, search),
    )


def _about_inputs(
    config: TrainConfig, data: RunData, ranks: Ranks
) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """`coverage` and `baseline` of the test rows, on rank 0, and the scores that learn nothing.

    Warns, or refuses, if little is covered. Without vectors there are no such scores.
    """
    with together(ranks):
        if ranks.rank != 0:
            return {}, None
        shares = _coverage(config, data)
        top3_R = top3_cosine(data.test, next(iter(data.frozen.values()))) if data.frozen else None
        return {"coverage": shares, "baseline": {"top3_cosine": _baseline(data, top3_R)}}, top3_R


def _coverage(config: TrainConfig, data: RunData) -> dict[str, Any]:
    shares: dict[str, Any] = {"target": None, "history": None}
    if data.frozen:
        shares = coverage(data.test, data.frozen, data.query_frozen)
    least, (found, of_set) = config.min_coverage, lowest_coverage(shares)
    if least is not None and found is not None and found < least:
        raise UserError(
            f"{config.test}: {found:.1%} of its targets have an embedding{of_set}, --min-coverage asks for "
            f"{least:.1%}; embed more items, or lower it"
        )
    for warning in early_warnings(shares, config.epochs, data.validation is not None):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    if data.catalogue_coverage is not None:
        shares["catalogue"] = data.catalogue_coverage
    return shares


def _baseline(data: RunData, top3_R: NDArray[np.float32] | None) -> dict[str, float | None] | None:
    """Quality of the scores that learn nothing; None where these tell no row from another."""
    if top3_R is None or top3_R.min() == top3_R.max():
        return None
    return ranking_quality(data.test, top3_R)


def _has_both_classes(impressions: Impressions) -> bool:
    return len(impressions) > 0 and bool(impressions.label_R.min() < impressions.label_R.max())


def _train_all(
    config: TrainConfig, data: RunData, ranks: Ranks, run: Run | None, top3_R: NDArray[np.float32] | None
) -> dict[str, Any]:
    """Train every seed that is not finished; the metrics of all."""
    out = Path(config.out)
    checkpoints = Checkpoints(out, ranks, config.checkpoint_minutes, run)
    settings = _settings(config, data)
    for seed in range(config.seed + len(checkpoints.finished), config.seed + config.seeds):
        checkpoints.finish_seed(
            _train_one(config, replace(settings, seed=seed), data, ranks, checkpoints, run, top3_R)
        )
    return combined(checkpoints.finished) if run is not None else {}


def _train_one(
    config: TrainConfig,
    settings: ModelSettings,
    data: RunData,
    ranks: Ranks,
    checkpoints: Checkpoints,
    run: Run | None,
    top3_R: NDArray[np.float32] | None,
) -> dict[str, Any]:
    """Train a seed; its metrics. The first one's model and all scores are kept, the rest is dropped."""
    log = partial(run.log, seed=settings.seed) if run is not None else None
    trained = train_seed(config, settings, data, ranks, checkpoints, log=log)
    first = settings.seed == config.seed
    weights = trained.engine.state_dict() if first else {}
    with together(ranks, Path(config.out)):
        if run is not None:
            assert trained.logit_R is not None
            if first:
                save_model(run.model_dir, weights, settings, data.vocabulary)
            _save_scores(run, config, settings.seed, data, probabilities(trained.logit_R), top3_R)
    return trained.result


def _save_scores(
    run: Run,
    config: TrainConfig,
    seed: int,
    data: RunData,
    score_R: NDArray[np.float64],
    top3_R: NDArray[np.float32] | None,
) -> None:
    """Write a seed's test scores; before it counts as finished, so that a kill never loses them."""
    path = run.path / "test_scores.parquet"
    if seed != config.seed:
        add_scores(path, seed_column(seed), score_R)
        return
    columns_R: dict[str, NDArray[np.floating]] = {SCORE: score_R}
    if top3_R is not None:
        columns_R[TOP3_COSINE] = top3_R
    if config.seeds > 1:
        columns_R[seed_column(seed)] = score_R
    write_scores(path, data.test_table, columns_R)


def _settings(config: TrainConfig, data: RunData) -> ModelSettings:
    """What the model is built from."""
    items = {name: SavedSet(one.dimension, data.fingerprints[name]) for name, one in data.frozen.items()}
    queries = {
        name: SavedSet(one.dimension, data.fingerprints[f"query:{name}"])
        for name, one in data.query_frozen.items()
    }
    return ModelSettings(
        content=config.modules,
        embedding_dim=config.embedding_dim,
        history=config.history,
        top=config.top,
        predictor=config.predictor,
        seed=config.seed,
        item_sets=items,
        query_sets=queries,
        cross=config.crossed,
    )
