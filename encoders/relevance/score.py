"""`moonrec score-relevance`: the relevance of (query, item) pairs, in a stream of any length.

The catalogue is encoded once and stays in memory; the pairs pass in windows, in which equal queries are
encoded once. What is told of a pair depends on the query, the item and the catalogue around it.

Shapes: n rows of a window.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from encoders.evaluation.entrants import Entrant, check_same_catalogue
from encoders.evaluation.entrants import Setting as Place
from encoders.evaluation.narrowing import Narrowing
from encoders.evaluation.results import MAIN
from encoders.loading import COMPACT, TINY_MLLM, cache_folder
from encoders.precision import pick_device
from encoders.queries import unknown_items
from encoders.relevance.asked import as_numbers, id_columns
from encoders.relevance.features import COSINE, PairFeatures, feature_names
from encoders.relevance.item_vectors import item_vectors
from encoders.relevance.model import RelevanceModel
from encoders.relevance.query_vectors import QueryWindow, query_windows
from moonrec.atomic import atomic_file
from moonrec.errors import UserError
from moonrec.output_place import folder_or_none, refuse_inside_inputs
from moonrec.tables import ITEMS, SEARCHES, Table, open_table

_SCORES = pa.schema(
    {"row": pa.int64(), "item_id": pa.string(), "relevance": pa.float64(), "cosine": pa.float64()}
)
_WINDOW = 1 << 14


@dataclass(frozen=True)
class ScoreRelevanceConfig:
    """Options of `moonrec score-relevance`, with the names of the flags.

    Attributes:
        model: the run folder of `moonrec train-relevance`.
        pairs: rows of a query (`query_text`, `query_image`) and an `item_id`.
        items: the catalogue.
        out: the Parquet file to write.
        encoder: the encoder of the training; None: where the training had it.
        embeddings: an embedding set of the catalogue by this encoder.
        device: where to compute.
        cache: folder of the feature cache (None: the default one, "": none).
    """

    model: str
    pairs: str
    items: str
    out: str
    encoder: str | None = None
    embeddings: str | None = None
    device: str = "auto"
    cache: str | None = None


def score_relevance(config: ScoreRelevanceConfig) -> dict[str, Any]:
    """Score a table of pairs; writes `row`, `item_id`, `relevance` and `cosine` in its order.

    `relevance` is null where there is nothing to tell it from: the item is not in the catalogue, the query
    shows nothing usable, or the training had no query of its modality; then `cosine` is null, too, but for
    the last of these.

    Returns:
        `rows`, and how many of them have an unknown item (`unknown_items`), an empty query
        (`empty_queries`) or an untrained modality (`unknown_modality`); how many pictures, of queries
        and items, could not be used (`broken_images`); whether the catalogue is that of the training
        (`same_catalogue`); `seconds` in all, and `pairs_per_second` once the catalogue is encoded.

    Raises:
        UserError: no usable model, another encoder than that of the training, tables that do not fit, most
            items unknown, or an output that cannot be written.
    """
    started = time.perf_counter()
    model = _model(config.model)
    _check_output(config, model)
    pairs, items = open_table(config.pairs, SEARCHES), open_table(config.items, ITEMS)
    ids = items.read(["item_id"]).column("item_id")
    unknown_items(pairs, ids)
    entrant = _entrant(config, model, items)
    check_same_catalogue(entrant, ids)
    scorer = _Scorer(model, entrant, items, id_columns(pairs))
    counts = dict.fromkeys(("rows", "unknown_items", "empty_queries", "unknown_modality"), 0)
    worker = entrant.worker
    assert worker is not None
    ready = time.perf_counter()
    with atomic_file(config.out) as temporary, pq.ParquetWriter(temporary, _SCORES) as writer:
        for window in query_windows(pairs, worker, _WINDOW, "scoring"):
            writer.write_table(scorer(window, counts))
    ended = time.perf_counter()
    return {
        **counts,
        "broken_images": worker.preparer.broken.to_dict()["count"],
        "same_catalogue": items.fingerprint() == model.setting.items_fingerprint,
        "seconds": ended - started,
        "pairs_per_second": counts["rows"] / (ended - ready),
        "out": str(config.out),
    }


class _Scorer:
    """Scores windows of pairs against one catalogue."""

    def __init__(self, model: RelevanceModel, entrant: Entrant, items: Table, ids: pa.Table) -> None:
        self._model, self._ids = model, ids
        self._items = item_vectors(items, entrant, model.setting.levels)
        self._features = PairFeatures(self._items)

    def __call__(self, window: QueryWindow, counts: dict[str, int]) -> pa.Table:
        """The output's rows of a window; adds to the counts."""
        asked, vectors = as_numbers(self._ids, window, self._items), window.vectors
        near = self._features.neighbours(vectors, asked.own_Q)
        known_n, shown_n = asked.taken_n >= 0, asked.query_n >= 0
        there_n = known_n & shown_n
        query, item = asked.query_n[there_n], asked.taken_n[there_n]
        feature_PF, modality_P = self._features(vectors, near, query, item), vectors.modality_Q()[query]
        relevance_n, cosine_n = (np.full(len(there_n), np.nan) for _ in range(2))
        relevance_n[there_n] = self._model(feature_PF, modality_P)
        cosine_n[there_n] = feature_PF[:, self._features.names.index(COSINE)]
        counts["rows"] += len(there_n)
        counts["unknown_items"] += int((~known_n).sum())
        counts["empty_queries"] += int((~shown_n).sum())
        counts["unknown_modality"] += int((~self._model.is_familiar(modality_P)).sum())
        rows = pa.array(np.arange(window.first_row, window.first_row + len(there_n)))
        ids = self._ids.column("item_id").slice(window.first_row, len(there_n))
        values = [pa.array(one, mask=np.isnan(one)) for one in (relevance_n, cosine_n)]
        return pa.table([rows, ids, *values], schema=_SCORES)


def _model(run: str) -> RelevanceModel:
    model = RelevanceModel.load(run)
    if model.setting.features != feature_names(model.setting.levels):
        raise UserError(f"{run}: its model takes other features than this version makes; train it again")
    return model


def _entrant(config: ScoreRelevanceConfig, model: RelevanceModel, items: Table) -> Entrant:
    """The encoder, which has to be that of the training, at the width of the training.

    Raises:
        UserError: it is not, or cannot be opened.
    """
    setting, name = model.setting, config.encoder or model.setting.encoder
    if config.encoder is None and name not in (COMPACT, TINY_MLLM) and not Path(name).exists():
        raise UserError(
            f"--model {config.model}: was trained with the encoder {name}, which is not there; name where it "
            "lies now with --encoder"
        )
    place = Place(items, pick_device(config.device), cache_folder(config.cache))
    option = f"--encoder {name}" if config.embeddings is None else f"--embeddings {config.embeddings}"
    entrant = Entrant.of(MAIN, option, name, config.embeddings, place)
    if entrant.fingerprint() != setting.encoder_fingerprint:
        fitted = "; an untrained encoder is fitted to a catalogue: give that of the training as --items"
        raise UserError(
            f"--encoder {name}: is not the encoder that {config.model} was trained with, {setting.encoder} "
            f"(fingerprints differ); name that one{fitted if name == setting.encoder else ''}"
        )
    if entrant.dim < setting.dim or (config.embeddings is not None and entrant.dim != setting.dim):
        raise UserError(
            f"{option}: its vectors have {entrant.dim} dimensions, those of the training {setting.dim}; give "
            f"--embeddings that were exported with --dim {setting.dim}, or none"
        )
    worker = entrant.worker
    assert worker is not None
    # A prefix, as in training, whether or not the encoder was trained to stand on it.
    return replace(entrant, worker=worker.at(setting.dim), narrowing=Narrowing(setting.dim))


def _check_output(config: ScoreRelevanceConfig, model: RelevanceModel) -> None:
    if Path(config.out).is_dir():
        raise UserError(f"-o {config.out}: is a folder; expected the name of a Parquet file to write")
    inputs = [(f"--{name}", getattr(config, name)) for name in ("model", "pairs", "items", "embeddings")]
    # The training's encoder is read, too, where none is named.
    encoder = config.encoder or model.setting.encoder
    refuse_inside_inputs(config.out, [*inputs, ("--encoder", folder_or_none(encoder))])
