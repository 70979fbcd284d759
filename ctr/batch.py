"""A batch as tensors: the one place where KeyedJaggedTensors are built.

Legend: B rows, N behaviours (the histories of all rows, end to end).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from ctr.history import gather_ranges
from ctr.id_embeddings import HISTORY, TARGET, USER
from ctr.impressions import Impressions


@dataclass
class Batch(Pipelineable):
    """What a model sees of B impressions; TorchRec's pipelines can move it between devices and streams.

    Attributes:
        ids: rows of the trained tables for the features `user`, `target_item`, `history_item`.
        target_B: rows of the targets in the frozen vectors, int64, 0 = not covered.
        history_N: the same for behaviours.
        offset_B1: (B + 1,) int64, where each row's behaviours begin.
        row_N: the row of each behaviour, int64.
        label_B: 0 or 1, float32.
        loss_scale: what the sum of the rows' losses is multiplied by.
    """

    ids: KeyedJaggedTensor
    target_B: Tensor
    history_N: Tensor
    offset_B1: Tensor
    row_N: Tensor
    label_B: Tensor
    loss_scale: float = 1.0

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return self._map(lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from which copies to a GPU run beside its work."""
        return self._map(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors' memory until the work on `stream` is done."""
        self._map(lambda value: value.record_stream(stream) or value)

    def _map(self, function: Any) -> Batch:
        tensors = [field.name for field in fields(self) if field.name != "loss_scale"]
        return replace(self, **{name: function(getattr(self, name)) for name in tensors})


def build_batch(
    impressions: Impressions, rows_B: NDArray[np.int64], loss_scale: float | None = None
) -> Batch:
    """Gather the given rows of `impressions`, histories included.

    Args:
        impressions: rows with their codes and history offsets.
        rows_B: which rows.
        loss_scale: see `Batch`; `1 / B` (the mean) when None.
    """
    position_N, offset_B1 = gather_ranges(impressions.start_R[rows_B], impressions.end_R[rows_B])
    item_N = impressions.store.item_E[position_N]
    item_B = impressions.item_R[rows_B]
    length_B = np.diff(offset_B1)
    values = np.concatenate(
        [impressions.user_R[rows_B], impressions.item_row[item_B], impressions.item_row[item_N]]
    )
    ones_B = np.ones(len(rows_B), dtype=np.int64)
    ids = KeyedJaggedTensor(
        keys=[USER, TARGET, HISTORY],
        values=torch.from_numpy(values),
        lengths=torch.from_numpy(np.concatenate([ones_B, ones_B, length_B])),
        stride=len(rows_B),
    )
    return Batch(
        ids=ids,
        target_B=torch.from_numpy(impressions.frozen_row[item_B]),
        history_N=torch.from_numpy(impressions.frozen_row[item_N]),
        offset_B1=torch.from_numpy(offset_B1),
        row_N=torch.from_numpy(np.repeat(np.arange(len(rows_B)), length_B)),
        label_B=torch.from_numpy(impressions.label_R[rows_B]),
        loss_scale=1.0 / len(rows_B) if loss_scale is None else loss_scale,
    )
