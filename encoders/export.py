"""From a catalogue to a frozen embedding set, as a stream.

Products pass shard by shard: pictures are decoded ahead in parallel, the towers' features come from the cache
where they can (which is how a killed export goes on: nearly all of its time is there), vectors go straight to
the writer. Memory does not grow with the catalogue, except for the ids.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders.encoding import MODALITIES, encode
from encoders.features import FeatureTable
from encoders.loading import featurizer_for, load_encoder
from encoders.precision import pick_device
from encoders.products import BrokenImages, iter_items
from moonrec.embedding_set import EmbeddingSetWriter
from moonrec.errors import UserError
from moonrec.progress import progress
from moonrec.tables import ITEMS, open_table


@dataclass(frozen=True)
class ExportConfig:
    """Options of `moonrec export`, with the names of the flags."""

    encoder: str
    items: str
    out: str
    modality: str = "multimodal"
    dim: int | None = None
    device: str = "auto"
    cache: str | None = None


def export(config: ExportConfig) -> dict[str, Any]:
    """Encode a catalogue and write its embedding set; returns counts.

    Products that show nothing in the chosen modality are left out (not covered), counted as `empty`.

    Raises:
        UserError: no such encoder or modality, `dim` larger than the encoder's, or nothing to encode.
    """
    if config.modality not in MODALITIES:
        raise UserError(f"--modality {config.modality}: expected one of {', '.join(MODALITIES)}")
    started = time.perf_counter()
    device = pick_device(config.device)
    items = open_table(config.items, ITEMS)
    encoder, ready = load_encoder(config.encoder)
    featurizer = featurizer_for(encoder, config.cache, device)
    if not ready:
        encoder.calibrate(featurizer.table(progress(iter_items(items), "catalogue features")))
        featurizer.broken = BrokenImages()
    dim = encoder.config.dim if config.dim is None else config.dim
    if not 0 < dim <= encoder.config.dim:
        raise UserError(
            f"--dim {dim}: the encoder's vectors have {encoder.config.dim} dimensions; ask for at most that"
        )
    encoder = encoder.to(device)
    metadata: dict[str, object] = {
        "encoder_fingerprint": encoder.fingerprint(),
        "catalogue_fingerprint": items.fingerprint(),
        "modality": config.modality,
    }
    rows, empty_rows = 0, 0
    with EmbeddingSetWriter(Path(config.out), dim, metadata) as writer:
        for keys, shard in progress(featurizer.shards(iter_items(items)), "export"):
            vectors, empty = encode(encoder, FeatureTable([shard]), device=device, modality=config.modality)
            vectors = shortened(vectors[~empty], dim)
            writer.write([key for key, nothing in zip(keys, empty, strict=True) if not nothing], vectors)
            rows, empty_rows = rows + len(vectors), empty_rows + int(empty.sum())
        if not rows:
            raise UserError(
                f"{config.items}: no product shows anything as {config.modality}; nothing was written"
            )
        writer.metadata |= {"empty": empty_rows, "broken_images": featurizer.broken.to_dict()}
    seconds = time.perf_counter() - started
    return {
        "rows": rows,
        "empty": empty_rows,
        "dimension": dim,
        "broken_images": featurizer.broken.to_dict(),
        "seconds": seconds,
        "products_per_second": (rows + empty_rows) / seconds,
    }


def shortened(vectors_NE: np.ndarray, dim: int) -> np.ndarray:
    """The first `dim` components of unit vectors, scaled to unit length again.

    The compact encoder's output starts as principal directions, largest first, so its prefixes keep most.
    """
    if dim == vectors_NE.shape[1]:
        return vectors_NE
    cut = vectors_NE[:, :dim]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True).clip(1e-12)
