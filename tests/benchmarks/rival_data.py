"""The rows that a retrieval run of ours learns from and is measured on, in the form that torch-rechub reads.

    train.npz         user, item, history: a row per training target
    validation.npz    user, history, positives, what is masked: a row per validation request
    test.npz          user, history: a row per test request
    items.npz         how often each item is a training target; the frozen vectors, if there are any

The rows come from `ctr.retrieval.data`, so both sides learn the same targets with the same histories and are
asked the same requests. Item codes are places in the catalogue plus 1; 0 is padding. User codes are rows of
our trained table; 0 is a user that training did not see.

Legend: R rows, Q requests, L history, N items of the catalogue, D width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctr.data.ragged import Ragged
from ctr.retrieval.config import RetrievalConfig
from ctr.retrieval.data import RetrievalData, load_data, open_inputs
from ctr.retrieval.requests import Requests, candidate_history

Codes = NDArray[np.int32]


@dataclass(frozen=True)
class Handover:
    """What the other side got, and what its vectors are judged by.

    Attributes:
        folder: where its files are.
        test: the requests.
        taken_N: how often each item of the catalogue is a training target.
        train_rows, users: how much there is to learn from.
        mean_history: mean length of the training rows' histories.
    """

    folder: Path
    test: Requests
    taken_N: NDArray[np.int64]
    train_rows: int
    users: int
    mean_history: float


def write_handover(config: RetrievalConfig, folder: Path) -> Handover:
    """Read and split what `config` names as a run of ours does, and write it into `folder`, which is made.

    Raises:
        UserError: an input is missing, damaged, or leaves nothing to learn from or to measure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = load_data(config, open_inputs(config))
    position_C = data.catalogue.position_C
    item_R = position_C[data.train.item_R]
    there_R = item_R >= 0
    history = candidate_history(data.train, position_C)
    train = {
        "user": np.asarray(data.train.user_R)[there_R],
        "item": (item_R + 1)[there_R],
        "history": _padded(history, config.history)[there_R],
    }
    np.savez(folder / "train.npz", allow_pickle=False, **_int32(train))
    validation = _asked(data.validation, config.history) | _answers(data.validation)
    np.savez(folder / "validation.npz", allow_pickle=False, **_int32(validation))
    np.savez(folder / "test.npz", allow_pickle=False, **_int32(_asked(data.test, config.history)))
    taken_N = data.taken_C[data.catalogue.code_M]
    np.savez(folder / "items.npz", allow_pickle=False, taken=taken_N, **_vectors(data))
    return Handover(
        folder=folder,
        test=data.test,
        taken_N=taken_N,
        train_rows=int(there_R.sum()),
        users=len(np.unique(train["user"])),
        mean_history=float(np.diff(history.offsets_R1)[there_R].mean()),
    )


def _asked(requests: Requests, limit: int) -> dict[str, NDArray[np.integer]]:
    return {
        "user": np.asarray(requests.rows.user_R),
        "history": _padded(requests.history, limit),
    }


def _answers(requests: Requests) -> dict[str, NDArray[np.integer]]:
    return {
        "query": requests.query_P,
        "positive": requests.item_P,
        "positives": requests.positives_Q,
        "masked": requests.masked.values,
        "masked_offset": requests.masked.offsets_R1,
    }


def _padded(history: Ragged, limit: int) -> Codes:
    """Codes of the items (R, L), latest last, zeros in front."""
    length_R = np.diff(history.offsets_R1)
    padded_RL = np.zeros((len(history), limit), np.int32)
    from_end_RL = np.arange(limit, 0, -1)
    padded_RL[from_end_RL <= length_R[:, None]] = history.values + 1
    return padded_RL


def _vectors(data: RetrievalData) -> dict[str, NDArray[np.float32]]:
    if data.frozen is None:
        return {}
    return {"vector": data.frozen.vectors.numpy()[data.items.frozen_C[data.catalogue.code_M]]}


def _int32(columns: dict[str, NDArray[np.integer]]) -> dict[str, Codes]:
    return {name: values.astype(np.int32) for name, values in columns.items()}
