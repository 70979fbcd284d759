"""What the towers know before the first step: scales, principal directions, and how much content tells.

How strongly taste and popularity count is fitted on training rows: the softmax over items of
a · log taken + w · cosine(history, item), the likeliest a and w. Where content tells little, towers that
started with a sharp cosine would spend their first epoch on drowning it, and what they knew of it with it.

Legend: Q rows, N items, C items by their code, V rows of the trained table, D width of both towers' output.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from ctr.retrieval.batch import had_pairs, user_batch
from ctr.retrieval.data import RetrievalData
from ctr.retrieval.model import TwoTowers
from ctr.retrieval.softmax import LOWEST_TEMPERATURE
from ctr.retrieval.towers import LOWEST_STRENGTH, START

_SCALE_ROWS = 16_384
# Of rows and items that the two weights are fitted on: their product is 64 MB, and w known to about a tenth.
_ROWS, _ITEMS = 2_048, 4_096
_STREAM = 11
_MOST_POPULARITY = 2.0


def fit_start(model: TwoTowers, data: RetrievalData, seed: int) -> None:
    """Tell an untrained model what the training period knows.

    Args:
        model: its tables may be elsewhere: they are not read.
        data: training rows, items and frozen vectors.
        seed: of the rows that are looked at.
    """
    count = min(_SCALE_ROWS, len(data.train))
    chosen = np.random.default_rng(seed).choice(len(data.train), count, replace=False)
    taken_V = np.zeros(len(data.vocabulary.ids.items) + 1, np.float32)
    taken_V[data.items.trained_C] = data.taken_C
    # Row 0 is that of all others.
    taken_V[0] = 0
    frozen_Q = data.items.frozen_C[data.train.item_R[chosen]]
    model.towers.fit(torch.from_numpy(frozen_Q), torch.from_numpy(taken_V))
    if data.frozen is not None:
        popularity, content = start_weights(*_choices(model, data, seed))
        temperature = min(START, 1 / content)
        model.towers.weigh(content * temperature, popularity * temperature)
        model.softmax.start_at(temperature)


def start_weights(
    cosine_QN: NDArray[np.float64],
    log_taken_N: NDArray[np.float64],
    hidden_QN: NDArray[np.bool_],
    target_Q: NDArray[np.int64],
) -> tuple[float, float]:
    """The a and w under which the targets are likeliest, within what the towers can say.

    Args:
        cosine_QN: of histories and items.
        log_taken_N: log of how often the items are taken.
        hidden_QN: items that are no candidates of a row; never its target.
        target_Q: which item each row took.
    """
    row_Q = np.arange(len(target_Q))

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit_QN = weights[0] * log_taken_N + weights[1] * cosine_QN
        logit_QN[hidden_QN] = -np.inf
        own_Q = logit_QN[row_Q, target_Q]
        largest_Q1 = logit_QN.max(axis=1, keepdims=True)
        share_QN = np.exp(logit_QN - largest_Q1)
        sum_Q1 = share_QN.sum(axis=1, keepdims=True)
        share_QN /= sum_Q1
        gradient = [
            (share_QN @ log_taken_N - log_taken_N[target_Q]).mean(),
            ((share_QN * cosine_QN).sum(axis=1) - cosine_QN[row_Q, target_Q]).mean(),
        ]
        return float((np.log(sum_Q1) + largest_Q1).mean() - own_Q.mean()), np.array(gradient)

    bounds = [(0.0, _MOST_POPULARITY), (LOWEST_STRENGTH / START, 1 / LOWEST_TEMPERATURE)]
    popularity, content = minimize(loss, np.ones(2), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(popularity), float(content)


@torch.no_grad()
def _choices(
    model: TwoTowers, data: RetrievalData, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """What `start_weights` takes, of some training rows and of some of the items that training knows."""
    random = np.random.default_rng([seed, _STREAM])
    # In the order of training rows: later rows have a say in that of codes.
    _, first = np.unique(data.train.item_R, return_index=True)
    code_N = data.train.item_R[np.sort(first)].astype(np.int64)
    code_N = random.choice(code_N, min(_ITEMS, len(code_N)), replace=False)
    place_C = np.full(len(data.taken_C), -1)
    place_C[code_N] = np.arange(len(code_N))
    # The likelihood among some items is that of the rows whose target is one of them.
    rows_Q = np.flatnonzero(place_C[data.train.item_R] >= 0)
    rows_Q = random.choice(rows_Q, min(_ROWS, len(rows_Q)), replace=False)
    batch = user_batch(data.train, rows_Q, data.items)
    user_QD = model.towers.content_of_histories(batch).double().numpy()
    item_ND = model.towers.content_of_items(torch.from_numpy(data.items.frozen_C[code_N])).double().numpy()
    hidden_QN = np.zeros((len(rows_Q), len(code_N)), bool)
    if data.mask_history:
        train = data.train
        hidden_QN[had_pairs(train.store, train.start_R[rows_Q], train.end_R[rows_Q], place_C)] = True
    return user_QD @ item_ND.T, np.log(data.taken_C[code_N]), hidden_QN, place_C[data.train.item_R[rows_Q]]
