"""Users and items through a trained model, block by block.

Legend: Q requests, M candidates, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ctr.data.impressions import Impressions
from ctr.retrieval.batch import RetrievalBatch, item_batch, user_batch
from ctr.retrieval.catalogue import ItemInputs
from ctr.retrieval.model import TwoTowers

_USERS, _ITEMS = 2_048, 8_192


def user_vectors(model: TwoTowers, rows: Impressions, items: ItemInputs) -> NDArray[np.float32]:
    """Unit vectors (Q, D) of requests."""
    parts = [np.zeros((0, model.dim), np.float32)]
    for first in range(0, len(rows), _USERS):
        part_B = np.arange(first, min(first + _USERS, len(rows)))
        parts.append(_through(model, model.users, user_batch(rows, part_B, items)))
    return np.concatenate(parts)


def item_vectors(
    model: TwoTowers, items: ItemInputs, code_M: NDArray[np.int64]
) -> Iterator[NDArray[np.float32]]:
    """Unit vectors of items by their codes, in blocks (m, D)."""
    for first in range(0, len(code_M), _ITEMS):
        yield _through(model, model.candidates, item_batch(items, code_M[first : first + _ITEMS]))


@torch.no_grad()
def _through(
    model: TwoTowers, tower: Callable[[RetrievalBatch], torch.Tensor], batch: RetrievalBatch
) -> NDArray[np.float32]:
    model.eval()
    return np.asarray(tower(batch).numpy())
