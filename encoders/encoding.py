"""Features to vectors, in batches of products with about the same number of tokens."""

from __future__ import annotations

import numpy as np
import torch

from encoders.compact import CompactEncoder
from encoders.features import ProductFeatures
from encoders.precision import autocast
from moonrec.progress import progress

MODALITIES = ("multimodal", "image", "text")


@torch.inference_mode()
def encode(
    encoder: CompactEncoder,
    features: ProductFeatures,
    *,
    device: torch.device,
    modality: str = "multimodal",
    rows: np.ndarray | None = None,
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, E) float32 of the products at `rows` (default: all), and which of them are empty (N,) bool.

    An empty product has nothing that `modality` could show; its vector is zero.
    """
    rows = np.arange(len(features)) if rows is None else rows
    training = encoder.training
    encoder.eval()
    vectors = np.zeros((len(rows), encoder.config.dim), np.float32)
    empty = np.zeros(len(rows), bool)
    by_length = np.argsort(features.text_lengths()[rows], kind="stable")
    parts = np.split(by_length, range(batch_size, len(rows), batch_size))
    for part in progress(parts, "encoding", len(parts)):
        batch = features.gather(rows[part]).only(modality)
        with autocast(device):
            encoded = encoder(batch.to(device))
        vectors[part] = encoded.float().cpu().numpy()
        empty[part] = batch.is_empty_B().cpu().numpy()
    encoder.train(training)
    return vectors, empty
