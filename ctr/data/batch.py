"""A batch as tensors: the one place where KeyedJaggedTensors are built.

Legend: B rows, N behaviours (the histories of all rows, end to end), F context features, Q queries among the
behaviours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from ctr.data.history import gather_ranges
from ctr.data.impressions import Impressions
from ctr.data.unknown_ids import UnknownIds
from ctr.layers.id_embeddings import HISTORY, QUERY, QUERY_HISTORY, TARGET, USER


@dataclass
class Behaviours(Pipelineable):
    """Jagged behaviours of B rows.

    Attributes:
        frozen_N: their rows in the frozen vectors, int64, 0 = not covered.
        offset_B1: (B + 1,) int64, where each row's behaviours begin.
        row_N: the row of each behaviour, int64.
    """

    frozen_N: Tensor
    offset_B1: Tensor
    row_N: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Behaviours:
        """The same on another device."""
        return map_tensors(self, lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> Behaviours:
        """The same in page-locked memory."""
        return map_tensors(self, lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory until the work on `stream` is done."""
        map_tensors(self, lambda value: value.record_stream(stream) or value)


@dataclass
class Batch(Pipelineable):
    """What a model sees of B impressions; TorchRec's pipelines can move it between devices and streams.

    Attributes:
        ids: rows of the trained tables for `user`, `target_item`, `history_item` (and `query`,
            `history_query` in a model that knows queries), for TorchRec. None in a batch for `local`
            look-ups.
        context: rows of the context tables, a key per declared categorical; None without any, or likewise.
        local: the same rows per feature, as plain tensors, for look-ups in unsharded tables; None in a batch
            for TorchRec.
        local_offsets: (B + 1,) per multi-valued categorical of `local`.
        target_B: rows of the targets in the frozen vectors, int64, 0 = not covered.
        items: behaviours on items.
        queries: the queries behind them; None in a model without query vectors.
        query_B: rows of the impressions' queries in the frozen query vectors; None likewise.
        numeric_BF: normalised numbers and flags of what is missing; None without any.
        label_B: 0 or 1, float32.
        loss_scale: what the sum of the rows' losses is multiplied by.
    """

    ids: KeyedJaggedTensor | None
    context: KeyedJaggedTensor | None
    local: dict[str, Tensor] | None
    local_offsets: dict[str, Tensor] | None
    target_B: Tensor
    items: Behaviours
    queries: Behaviours | None
    query_B: Tensor | None
    numeric_BF: Tensor | None
    label_B: Tensor
    loss_scale: float = 1.0

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return map_tensors(self, lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from which copies to a GPU run beside its work."""
        return map_tensors(self, lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors' memory until the work on `stream` is done."""
        map_tensors(self, lambda value: value.record_stream(stream) or value)


def map_tensors(parts: Any, function: Any) -> Any:
    """Apply to every tensor, KeyedJaggedTensor and group of tensors in a dataclass."""

    def one(value: Any) -> Any:
        if value is None or isinstance(value, float):
            return value
        if isinstance(value, Mapping):
            return {name: function(inner) for name, inner in value.items()}
        return function(value)

    return replace(parts, **{field.name: one(getattr(parts, field.name)) for field in fields(parts)})


def build_batch(
    impressions: Impressions,
    rows_B: NDArray[np.int64],
    loss_scale: float | None = None,
    *,
    local: bool = False,
    unknown: UnknownIds | None = None,
) -> Batch:
    """Gather the given rows of `impressions`, histories included.

    Args:
        impressions: rows with their codes and history offsets.
        rows_B: which rows.
        loss_scale: see `Batch`; `1 / B` (the mean) when None.
        local: for look-ups in unsharded tables rather than by TorchRec; spares building its tensors.
        unknown: which ids this step of training takes for unknown; None: none of them.
    """
    start_B, end_B = impressions.start_R[rows_B], impressions.end_R[rows_B]
    item_B = impressions.item_R[rows_B]
    target_B = impressions.frozen_row[item_B]
    if impressions.search is None:
        position_N, offset_B1 = gather_ranges(start_B.astype(np.int64), end_B.astype(np.int64))
    else:
        position_N, offset_B1 = impressions.search.select(
            start_B.astype(np.int64), end_B.astype(np.int64), target_B
        )
    item_N = impressions.store.item_E[position_N]
    rows = {
        USER: impressions.user_R[rows_B],
        TARGET: impressions.item_row[item_B],
        HISTORY: impressions.item_row[item_N],
    }
    lengths = {HISTORY: np.diff(offset_B1)}
    behaviours = jagged_behaviours(impressions.frozen_row[item_N], offset_B1)
    queries, query_B = None, None
    if impressions.query_row is not None:
        queried_N, query_offset_B1 = _queries(impressions, position_N, offset_B1)
        asked_B = (
            impressions.query_R[rows_B] if impressions.query_R is not None else np.zeros(len(rows_B), int)
        )
        rows |= {QUERY: impressions.query_row[asked_B], QUERY_HISTORY: impressions.query_row[queried_N]}
        lengths[QUERY_HISTORY] = np.diff(query_offset_B1)
        frozen_Q = np.zeros(len(queried_N), np.int64)
        if impressions.query_frozen_row is not None:
            query_B = torch.from_numpy(impressions.query_frozen_row[asked_B])
            frozen_Q = impressions.query_frozen_row[queried_N]
        queries = jagged_behaviours(frozen_Q, query_offset_B1)
    context, offsets = {}, {}
    for name, column in impressions.categories.items():
        taken = column.take(rows_B)
        context[name] = taken.values
        if not taken.single:
            lengths[name], offsets[name] = np.diff(taken.offsets_R1), torch.from_numpy(taken.offsets_R1)
    if unknown is not None:
        rows, context = unknown.mask(rows), unknown.mask(context)
    numeric = impressions.numeric_RF
    plain = {name: torch.from_numpy(np.asarray(v, np.int64)) for name, v in (rows | context).items()}
    return Batch(
        ids=None if local else keyed(rows, lengths, len(rows_B)),
        context=keyed(context, lengths, len(rows_B)) if context and not local else None,
        local=plain if local else None,
        local_offsets=offsets if local else None,
        target_B=torch.from_numpy(target_B),
        items=behaviours,
        queries=queries,
        query_B=query_B,
        numeric_BF=None if numeric is None else torch.from_numpy(numeric[rows_B]),
        label_B=torch.from_numpy(impressions.label_R[rows_B]),
        loss_scale=1.0 / len(rows_B) if loss_scale is None else loss_scale,
    )


def jagged_behaviours(frozen_N: NDArray[np.int64], offset_B1: NDArray[np.int64]) -> Behaviours:
    """Behaviours out of their rows in the frozen vectors, and where each row's begin."""
    row_N = np.repeat(np.arange(len(offset_B1) - 1), np.diff(offset_B1))
    return Behaviours(*map(torch.from_numpy, (frozen_N, offset_B1, row_N)))


def _queries(
    impressions: Impressions, position_N: NDArray[np.int64], offset_B1: NDArray[np.int64]
) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Codes of the queries behind the behaviours, behaviours without one left out, and where rows begin."""
    query_E = impressions.store.query_E
    if query_E is None:
        return np.zeros(0, np.int64), np.zeros_like(offset_B1)
    query_N = query_E[position_N]
    asked_N = query_N > 0
    before_N1 = np.concatenate([[0], np.cumsum(asked_N)])
    return query_N[asked_N], before_N1[offset_B1]


def keyed(
    rows: Mapping[str, NDArray[np.integer]], lengths: Mapping[str, NDArray[np.int64]], stride: int
) -> KeyedJaggedTensor:
    """Rows of tables per feature, for TorchRec.

    Args:
        rows: values of each feature, all rows of the batch end to end.
        lengths: how many each row has, of the features that do not have exactly one.
        stride: rows of the batch.
    """
    one_B = np.ones(stride, dtype=np.int64)
    return KeyedJaggedTensor(
        keys=list(rows),
        values=torch.from_numpy(np.concatenate([np.asarray(v, np.int64) for v in rows.values()])),
        lengths=torch.from_numpy(np.concatenate([lengths.get(name, one_B) for name in rows])),
        stride=stride,
    )
