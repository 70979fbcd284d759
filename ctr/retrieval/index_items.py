"""`moonrec index`: vectors and an index of a catalogue for a trained model, new items included.

The model stays as it is. An item that training never saw enters by its frozen vector (and its category).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctr.retrieval.config import INDEX_KINDS
from ctr.retrieval.index import build_index
from ctr.retrieval.index_folder import index_folder
from ctr.retrieval.item_tower_pass import ServedItems, served_vectors
from ctr.retrieval.saving import SavedRetrieval, load_retrieval
from ctr.retrieval.user_sample import load_sample
from moonrec.embedding_set import EmbeddingSetWriter
from moonrec.errors import UserError
from moonrec.ids import rows_of
from moonrec.output_place import refuse_inside_inputs
from moonrec.progress import progress
from moonrec.tables import ITEMS, open_table

# faiss adds 1 to it and keeps it in 32 bits.
LARGEST_SEED = 2**31 - 2


@dataclass(frozen=True)
class IndexConfig:
    """Options of `moonrec index`, with the names of the flags.

    Attributes:
        model: the run folder of `moonrec train-retrieval`.
        out: the folder to write: an embedding set of item-tower vectors, and its index.
        embeddings: an embedding set by the encoder of the training, of any items; None: where training had
            it.
        items: the catalogue, with its categories; None: what the embedding set holds.
        kind: `exact`, `hnsw` or `ivfpq`.
        seed: of what an index draws.
        allow_other_embeddings: take a set of which it cannot be told that the same encoder made it.
    """

    model: Path | str
    out: Path | str
    embeddings: Path | str | None = None
    items: Path | str | None = None
    kind: str = "exact"
    seed: int = 0
    allow_other_embeddings: bool = False


def index_items(config: IndexConfig) -> dict[str, Any]:
    """Make the vectors of a catalogue and their index, in place of an index that stands there.

    Returns:
        `items` in the index, `new` of them (never taken in training), `left_out` (the model can tell nothing
        of them: no trained id, no vector, no known category), `index` (what `build_index` measured),
        `seconds`.

    Raises:
        UserError: no usable model, set or table, nothing that can be indexed, or an output that cannot be
            written.
    """
    started = time.perf_counter()
    out = _checked(config)
    saved = load_retrieval(
        config.model, config.embeddings, allow_other_embeddings=config.allow_other_embeddings
    )
    if saved.embeddings is not None:
        refuse_inside_inputs(out, [("--embeddings", saved.embeddings.path)])
    sample_SD = load_sample(saved.run / "model", saved.settings.dim)
    items = ServedItems.of(saved, None if config.items is None else open_table(config.items, ITEMS))
    with index_folder(out) as folder:
        kept_M = _write_vectors(folder, saved, items)
        about = build_index(
            folder, config.kind, sample_SD, model_fingerprint=saved.fingerprint, seed=config.seed
        )
    taken_N = rows_of(items.ids, saved.popular[0]) >= 0
    return {
        "items": len(kept_M),
        "new": int(np.count_nonzero(~taken_N[kept_M])),
        "left_out": len(items) - len(kept_M),
        "index": about,
        "seconds": time.perf_counter() - started,
        "out": str(config.out),
    }


def _checked(config: IndexConfig) -> Path:
    """The output, once the options can be used."""
    if config.kind not in INDEX_KINDS:
        raise UserError(f"--kind {config.kind}: expected one of {', '.join(INDEX_KINDS)}")
    if not 0 <= config.seed <= LARGEST_SEED:
        raise UserError(f"--seed {config.seed}: expected a whole number from 0 to {LARGEST_SEED}")
    inputs = [(f"--{name}", getattr(config, name)) for name in ("model", "embeddings", "items")]
    refuse_inside_inputs(config.out, inputs)
    return Path(config.out)


def _write_vectors(folder: Path, saved: SavedRetrieval, items: ServedItems) -> np.ndarray:
    """Write the embedding set; which items are in it."""
    metadata: dict[str, object] = {"encoder_fingerprint": saved.fingerprint, "modality": "retrieval"}
    kept = [np.zeros(0, np.int64)]
    with EmbeddingSetWriter(folder, saved.settings.dim, metadata) as writer:
        for place_M, vectors_MD in progress(served_vectors(saved, items), "item vectors"):
            writer.write(items.ids.take(place_M), vectors_MD)
            kept.append(place_M)
        kept_N = np.concatenate(kept)
        if not len(kept_N):
            raise UserError(
                f"the model in {saved.run} can tell nothing of any of the {len(items):,} items (no trained "
                "id, no vector, no known category); give the embedding set that holds them"
            )
    return kept_N
