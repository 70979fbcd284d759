"""A step's rows and candidates as tensors.

Candidates stand row by row: a row's target, then the uniform draws that came with it. So all look-ups are
jagged features of one KeyedJaggedTensor with a row per request, which TorchRec can shard and pipeline.

Legend: B rows, N behaviours, U distinct items among these or among candidates, C candidates, P category paths
of candidates, K pairs of a row and an item that its user had, F numbers, I items by their code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from ctr.data.batch import Behaviours, jagged_behaviours, keyed, map_tensors
from ctr.data.history import EventStore, gather_ranges
from ctr.data.impressions import Impressions
from ctr.data.unknown_ids import UnknownIds
from ctr.layers.id_embeddings import CANDIDATE, CATEGORY, HISTORY, USER
from ctr.retrieval.catalogue import ItemInputs
from ctr.retrieval.negatives import Negatives

FEATURES = (USER, HISTORY, CANDIDATE, CATEGORY)


@dataclass
class RetrievalBatch(Pipelineable):
    """What two towers see; without candidates it is for the user tower alone, without rows for the other.

    Attributes:
        ids: rows of the trained tables, a feature each of `FEATURES`, for TorchRec; None in a batch for
            `local` look-ups.
        context: rows of the context tables; None without any, or likewise.
        local: the same rows per feature, as plain tensors; None in a batch for TorchRec.
        local_offsets: (B + 1,) per multi-valued context column of `local`.
        items: the behaviours.
        numeric_BF: normalised numbers of the context; None without any.
        frozen_U: rows in the frozen vectors of the distinct items among the behaviours.
        place_N: which of them each behaviour is on.
        frozen_C: rows of the candidates in the frozen vectors, int64, 0 = not covered.
        category_offset_C1: (C + 1,) where each candidate's category paths begin.
        code_C: item codes of the candidates, int64.
        trained_C: their rows in the trained table, int64, 0 = unknown.
        log_count_C: log of how many times a step is expected to draw the candidate's item, float32.
        target_B: which candidate each row's target is.
        had_row_K, had_place_K: rows, and which of the items of `had_code_U` their users had before.
        had_code_U: codes of all candidates of the step (of any process), each once.
        loss_scale: what the sum of the rows' losses is multiplied by.
    """

    ids: KeyedJaggedTensor | None
    context: KeyedJaggedTensor | None
    local: dict[str, Tensor] | None
    local_offsets: dict[str, Tensor] | None
    items: Behaviours
    numeric_BF: Tensor | None
    frozen_U: Tensor
    place_N: Tensor
    frozen_C: Tensor
    category_offset_C1: Tensor
    code_C: Tensor
    trained_C: Tensor
    log_count_C: Tensor
    target_B: Tensor
    had_row_K: Tensor
    had_place_K: Tensor
    had_code_U: Tensor
    loss_scale: float = 1.0

    def to(self, device: torch.device, non_blocking: bool = False) -> RetrievalBatch:
        """The batch on another device."""
        return map_tensors(self, lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> RetrievalBatch:
        """The batch in page-locked memory."""
        return map_tensors(self, lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors' memory until the work on `stream` is done."""
        map_tensors(self, lambda value: value.record_stream(stream) or value)


def training_batch(
    rows: Impressions,
    rows_B: NDArray[np.int64],
    items: ItemInputs,
    negatives: Negatives,
    *,
    step: int,
    mask_history: bool,
    part: int = 0,
    parts: int = 1,
    local: bool = True,
    unknown: UnknownIds | None = None,
) -> RetrievalBatch:
    """The rows of a step with their targets and uniform draws.

    Args:
        rows: all training rows.
        rows_B: those of the step, over all processes.
        items: what the item tower reads.
        negatives: draws, and tells the expected counts.
        step: decides the draws.
        mask_history: whether what a row's user had before is none of its negatives.
        part, parts: of several processes, which one's rows these are to be.
        local: for look-ups in unsharded tables rather than by TorchRec.
        unknown: which ids this step takes for unknown; None: none of them.
    """
    drawn_M, number_B = negatives.draw(step, len(rows_B))
    offset_B1 = np.append(0, np.cumsum(number_B))
    own = np.arange(part, len(rows_B), parts)
    position_M, own_offset_B1 = gather_ranges(offset_B1[own], offset_B1[own + 1])
    target_B = own_offset_B1[:-1] + np.arange(len(own))
    code_C = np.empty(len(own) + len(position_M), np.int64)
    is_target_C = np.zeros(len(code_C), bool)
    is_target_C[target_B] = True
    code_C[is_target_C] = rows.item_R[rows_B[own]]
    code_C[~is_target_C] = drawn_M[position_M]
    batch = _batch(
        rows,
        rows_B[own],
        items,
        code_C,
        np.diff(own_offset_B1) + 1,
        target_B,
        negatives.log_expected(code_C, len(rows_B)),
        parts / len(rows_B),
        local,
        unknown,
    )
    if mask_history:
        # Of all processes: they share their candidates.
        code_U = np.unique(np.concatenate([rows.item_R[rows_B], drawn_M]))
        place_I = np.full(len(items.trained_C), -1)
        place_I[code_U] = np.arange(len(code_U))
        had = had_pairs(rows.store, rows.start_R[rows_B[own]], rows.end_R[rows_B[own]], place_I)
        batch.had_row_K, batch.had_place_K = (torch.from_numpy(values) for values in had)
        batch.had_code_U = torch.from_numpy(code_U.astype(np.int64))
    return batch


def user_batch(rows: Impressions, rows_B: NDArray[np.int64], items: ItemInputs) -> RetrievalBatch:
    """Rows for the user tower alone, for local look-ups."""
    nothing = np.zeros(0, np.int64)
    none_B = np.zeros(len(rows_B), np.int64)
    return _batch(rows, rows_B, items, nothing, none_B, nothing, np.zeros(0, np.float32), 1.0, True, None)


def item_batch(items: ItemInputs, code_C: NDArray[np.int64]) -> RetrievalBatch:
    """Candidates for the item tower alone, for local look-ups."""
    categories = items.categories.take(code_C)
    nothing = torch.zeros(0, dtype=torch.int64)
    return RetrievalBatch(
        ids=None,
        context=None,
        local={
            CANDIDATE: torch.from_numpy(items.trained_C[code_C]),
            CATEGORY: torch.from_numpy(categories.values.astype(np.int64)),
        },
        local_offsets={},
        items=Behaviours(nothing, torch.zeros(1, dtype=torch.int64), nothing),
        numeric_BF=None,
        frozen_U=nothing,
        place_N=nothing,
        frozen_C=torch.from_numpy(items.frozen_C[code_C]),
        category_offset_C1=torch.from_numpy(categories.offsets_R1),
        code_C=torch.from_numpy(code_C),
        trained_C=torch.from_numpy(items.trained_C[code_C]),
        log_count_C=torch.zeros(len(code_C)),
        target_B=nothing,
        had_row_K=nothing,
        had_place_K=nothing,
        had_code_U=nothing,
    )


def _batch(
    rows: Impressions,
    rows_B: NDArray[np.int64],
    items: ItemInputs,
    code_C: NDArray[np.int64],
    candidates_B: NDArray[np.int64],
    target_B: NDArray[np.int64],
    log_count_C: NDArray[np.float32],
    loss_scale: float,
    local: bool,
    unknown: UnknownIds | None,
) -> RetrievalBatch:
    event_N, offset_B1 = gather_ranges(
        rows.start_R[rows_B].astype(np.int64), rows.end_R[rows_B].astype(np.int64)
    )
    code_N = rows.store.item_E[event_N].astype(np.int64)
    categories = items.categories.take(code_C)
    found = {
        USER: rows.user_R[rows_B],
        HISTORY: items.trained_C[code_N],
        CANDIDATE: items.trained_C[code_C],
    }
    if unknown is not None:
        found = unknown.mask(found)
    found[CATEGORY] = categories.values
    candidate_offset_B1 = np.append(0, np.cumsum(candidates_B))
    lengths = {
        HISTORY: np.diff(offset_B1),
        CANDIDATE: candidates_B,
        CATEGORY: np.diff(categories.offsets_R1[candidate_offset_B1]),
    }
    context, offsets = {}, {}
    for name, column in rows.categories.items():
        taken = column.take(rows_B)
        context[name] = taken.values
        if not taken.single:
            lengths[name], offsets[name] = np.diff(taken.offsets_R1), torch.from_numpy(taken.offsets_R1)
    plain = {name: torch.from_numpy(np.asarray(v, np.int64)) for name, v in (found | context).items()}
    numeric, nothing = rows.numeric_RF, torch.zeros(0, dtype=torch.int64)
    code_U, place_N = np.unique(code_N, return_inverse=True)
    return RetrievalBatch(
        ids=None if local else keyed(found, lengths, len(rows_B)),
        context=keyed(context, lengths, len(rows_B)) if context and not local else None,
        local=plain if local else None,
        local_offsets=offsets if local else None,
        items=jagged_behaviours(items.frozen_C[code_N], offset_B1),
        numeric_BF=None if numeric is None else torch.from_numpy(numeric[rows_B]),
        frozen_U=torch.from_numpy(items.frozen_C[code_U]),
        place_N=torch.from_numpy(place_N),
        frozen_C=torch.from_numpy(items.frozen_C[code_C]),
        category_offset_C1=torch.from_numpy(np.asarray(categories.offsets_R1, np.int64)),
        code_C=torch.from_numpy(code_C),
        trained_C=torch.from_numpy(np.asarray(found[CANDIDATE], np.int64)),
        log_count_C=torch.from_numpy(log_count_C),
        target_B=torch.from_numpy(target_B),
        had_row_K=nothing,
        had_place_K=nothing,
        had_code_U=nothing,
        loss_scale=loss_scale,
    )


def had_pairs(
    store: EventStore,
    start_B: NDArray[np.integer],
    end_B: NDArray[np.integer],
    place_I: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which rows' users had which of some items, not only in the history that is read.

    Args:
        store: the events.
        start_B, end_B: the history that is read: events of one user, up to the row's moment.
        place_I: by item code, which of those items it is; below 0: none of them.

    Returns:
        (K,) rows, and (K,) what `place_I` says; a pair for each event.
    """
    # The user whose event `start` is; a row without a history had nothing, whoever's that event is.
    user_B = np.searchsorted(store.user_offsets, start_B, side="right") - 1
    first_B = np.where(start_B < end_B, store.user_offsets[user_B], end_B)
    event_N, offset_B1 = gather_ranges(first_B.astype(np.int64), end_B.astype(np.int64))
    place_N = place_I[store.item_E[event_N]]
    kept_N = place_N >= 0
    return np.repeat(np.arange(len(start_B)), np.diff(offset_B1))[kept_N], place_N[kept_N]
