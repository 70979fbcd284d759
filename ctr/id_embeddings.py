"""Trained id tables: one TorchRec `EmbeddingCollection` for users and items.

Target and history share the item table. Row 0 of each table stands for every id that training did not see.
Initial values depend on (seed, table, row) alone, so that a shard of a table starts with the very numbers
that the whole table would have, whichever engine trains it.
"""

from __future__ import annotations

import zlib
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

USER, TARGET, HISTORY = "user", "target_item", "history_item"
_BLOCK = 65_536
# Small beside the content inputs of the predictor (about 1): an id counts for something only once it has
# been trained.
_INITIAL_RANGE = 0.01


def id_embeddings(
    users: int, items: int, dimension: int, seed: int, device: str | torch.device = "cpu"
) -> EmbeddingCollection:
    """Make the collection with tables `user` and `item`.

    Args:
        users: rows of the user table, the unknown row included.
        items: rows of the item table, the unknown row included.
        dimension: width of both.
        seed: seed of the initial values.
        device: where the tables live; `meta` when TorchRec is to shard them.
    """
    tables = [
        EmbeddingConfig(
            name=name,
            num_embeddings=rows,
            embedding_dim=dimension,
            feature_names=features,
            init_fn=partial(fill_initial_rows, table=name, seed=seed),
        )
        for name, rows, features in [("user", users, [USER]), ("item", items, [TARGET, HISTORY])]
    ]
    return EmbeddingCollection(tables=tables, device=torch.device(device))


@torch.no_grad()
def fill_initial_rows(weight: Tensor, table: str, seed: int, first_row: int = 0) -> Tensor:
    """Fill `weight`, the rows from `first_row` on of a table, with that table's initial values, in place."""
    if weight.is_meta:
        return weight
    rows, dimension = weight.shape
    for block in range(first_row // _BLOCK, -(-(first_row + rows) // _BLOCK)):
        key = [seed, zlib.crc32(table.encode()), block]
        values = np.random.default_rng(key).random((_BLOCK, dimension), dtype=np.float32)
        low = max(first_row, block * _BLOCK)
        high = min(first_row + rows, (block + 1) * _BLOCK)
        part = torch.from_numpy(
            (values[low - block * _BLOCK : high - block * _BLOCK] * 2 - 1) * _INITIAL_RANGE
        )
        weight[low - first_row : high - first_row] = part.to(weight.device)
    return weight
