"""Trained tables of ids and of declared categoricals, as TorchRec collections.

Users, items and queries are an `EmbeddingCollection`. Target and history share the item table, the query of
the impression and those of the history the query table. Declared categoricals are an
`EmbeddingBagCollection`: the values of a row are averaged. Row 0 of each table stands for every id that
training did not see (ctr/data/unknown_ids.py). Initial values depend on (seed, table, row) alone, so that a
shard of a table starts with the very numbers that the whole table would have, whichever engine trains it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

USER, TARGET, HISTORY = "user", "target_item", "history_item"
QUERY, QUERY_HISTORY = "query", "history_query"
CANDIDATE, CATEGORY = "candidate_item", "candidate_category"
TABLE_OF = {TARGET: "item", HISTORY: "item", CANDIDATE: "item", QUERY_HISTORY: "query", CATEGORY: "category"}
"""The table that a feature of the id collection is looked up in, where it has another name."""
_BLOCK = 65_536
# Small beside the content inputs of the predictor (about 1): an id counts for something only once it has
# been trained.
_INITIAL_RANGE = 0.01


RANKING = (USER, TARGET, HISTORY, QUERY, QUERY_HISTORY)
"""The features that a click model looks up, where it has their tables."""


def id_embeddings(
    rows: Mapping[str, int],
    dimension: int,
    seed: int,
    device: str | torch.device = "cpu",
    features: Sequence[str] = RANKING,
) -> EmbeddingCollection:
    """Make the collection of ids.

    Args:
        rows: rows of the tables `user`, `item` and, in a model that knows queries, `query`, the unknown row
            included.
        dimension: width of all.
        seed: seed of the initial values.
        device: where the tables live; `meta` when TorchRec is to shard them.
        features: what is looked up; those of tables that are not there are left out.
    """
    tables = [
        EmbeddingConfig(
            name=name,
            num_embeddings=count,
            embedding_dim=dimension,
            feature_names=[feature for feature in features if TABLE_OF.get(feature, feature) == name],
            init_fn=partial(fill_initial_rows, table=name, seed=seed),
        )
        for name, count in rows.items()
    ]
    return EmbeddingCollection(tables=tables, device=torch.device(device))


def context_embeddings(
    rows: Mapping[str, int], dimension: int, seed: int, device: str | torch.device = "cpu"
) -> EmbeddingBagCollection:
    """Make the collection of declared categoricals: a table and a feature of its name for each.

    Args:
        rows: rows of each table, the unknown row included; not empty.
        dimension, seed, device: as for `id_embeddings`.
    """
    tables = [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=count,
            embedding_dim=dimension,
            feature_names=[name],
            pooling=PoolingType.MEAN,
            init_fn=partial(fill_initial_rows, table=name, seed=seed),
        )
        for name, count in rows.items()
    ]
    return EmbeddingBagCollection(tables=tables, device=torch.device(device))


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
