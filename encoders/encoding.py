"""Products to vectors, in batches of products with about the same number of tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from encoders.encoder import Encoder, ProductTable
from encoders.precision import autocast
from encoders.products import EVERYTHING, View
from moonrec.gathering import gather_sections, world_size
from moonrec.progress import progress


@torch.no_grad()  # not inference_mode: what a sharded encoder gathers in it could not be trained after
def encode(
    encoder: Encoder,
    table: ProductTable,
    *,
    device: torch.device,
    view: View = EVERYTHING,
    rows: np.ndarray | None = None,
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, E) float32 of the products at `rows` (default: all), and which of them are empty (N,) bool.

    An empty product has nothing that `view` could show; its vector is zero.
    """
    rows = np.arange(len(table)) if rows is None else rows
    training = encoder.training
    encoder.eval()
    vectors = np.zeros((len(rows), encoder.config.dim), np.float32)
    empty = np.zeros(len(rows), bool)
    by_length = np.argsort(table.lengths()[rows], kind="stable")
    parts = np.split(by_length, range(batch_size, len(rows), batch_size))
    for part in progress(parts, "encoding", len(parts)):
        batch = table.gather(rows[part], view)
        with autocast(device):
            encoded = encoder(batch.to(device))
        vectors[part] = encoded.float().cpu().numpy()
        empty[part] = batch.is_empty_B().cpu().numpy()
    encoder.train(training)
    _reshard(encoder)
    return vectors, empty


def _reshard(encoder: Encoder) -> None:
    """Let a sharded encoder show its shards again: after a forward without a backward it shows whole weights,
    and an optimizer made of those would be left with freed memory."""
    for module in encoder.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def encode_together(
    encoder: Encoder,
    table: ProductTable,
    *,
    device: torch.device,
    rows: np.ndarray,
    view: View = EVERYTHING,
) -> np.ndarray:
    """Vectors (N, E) float32 of the products at `rows`, each computed by one of the processes, had by all.

    All processes call it, and all get the same bits.
    """
    processes = world_size()
    if processes == 1 or not len(rows):
        return encode(encoder, table, device=device, view=view, rows=rows)[0]
    # Shares of one length: the processes of a sharded encoder take every step together.
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % processes)])
    share = np.split(padded, processes)[torch.distributed.get_rank()]
    vectors = torch.from_numpy(encode(encoder, table, device=device, view=view, rows=share)[0])
    return torch.cat(gather_sections([vectors.to(device)])[0]).cpu().numpy()[: len(rows)]


def shortened(vectors_NE: np.ndarray, dim: int) -> np.ndarray:
    """The first `dim` components of unit vectors, scaled to unit length again (a Matryoshka prefix)."""
    if dim == vectors_NE.shape[1]:
        return vectors_NE
    cut = vectors_NE[:, :dim]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True).clip(1e-12)
