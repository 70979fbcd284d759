"""Random batches for the objective, and its loss by loops."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from encoders.objective.config import ObjectiveConfig
from encoders.objective.labels import ItemLabels, PairLabels

WIDTH = 8


def unit(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, WIDTH, generator=generator, dtype=dtype), dim=1)


def items(products: list[int], texts: list[int] | None = None) -> ItemLabels:
    texts = [-1] * len(products) if texts is None else texts
    return ItemLabels(torch.tensor(products), torch.tensor(texts))


def pairs(positives: list[int], own: list[int] | None = None, users: list[int] | None = None) -> PairLabels:
    nobody = [-1] * len(positives)
    return PairLabels(items(positives), items(own or nobody), torch.tensor(users or nobody))


@dataclass(frozen=True)
class Batch:
    """Everything one call of the objective reads."""

    anchors_PE: Tensor
    positives_PE: Tensor
    hard_HE: Tensor
    pairs: PairLabels
    hard: ItemLabels
    queue_QE: Tensor
    queue: ItemLabels


def random_items(count: int, rng: np.random.Generator, kinds: int) -> ItemLabels:
    return items(*(rng.integers(-1, kinds, count).tolist() for _ in range(2)))


def random_batch(pair_count: int, hard: int, queue: int, seed: int, kinds: int = 12) -> Batch:
    """Few products, texts and users, so that many candidates are false negatives. Queued products differ."""
    rng = np.random.default_rng(seed)
    labels = PairLabels(
        random_items(pair_count, rng, kinds),
        random_items(pair_count, rng, kinds),
        torch.from_numpy(rng.integers(-1, kinds // 3, pair_count)),
    )
    queued = items(rng.permutation(kinds * 2)[:queue].tolist(), rng.integers(-1, kinds, queue).tolist())
    return Batch(
        unit(pair_count, 4 * seed),
        unit(pair_count, 4 * seed + 1),
        unit(hard, 4 * seed + 2),
        labels,
        random_items(hard, rng, kinds),
        unit(queue, 4 * seed + 3).float(),
        queued,
    )


def loss_by_loops(batch: Batch, config: ObjectiveConfig, scale: float = 1 / 0.07) -> float:
    """The contrastive loss, candidate by candidate."""
    total = 0.0
    for dim in config.dims:
        a, p, h, q = (
            [row / np.linalg.norm(row) for row in x[:, :dim].double().detach().numpy()]
            for x in (batch.anchors_PE, batch.positives_PE, batch.hard_HE, batch.queue_QE)
        )
        count = len(a)
        for i in range(count):
            others = [j for j in range(count) if j != i]
            forward = [a[i] @ p[j] for j in others if not _false_pair(batch.pairs, i, j)]
            forward += [a[i] @ h[k] for k in range(len(h)) if not _false_item(batch.pairs, i, batch.hard, k)]
            forward += [
                a[i] @ q[k]
                for k in range(len(q))
                if not _false_item(batch.pairs, i, batch.queue, k) and not _in_batch(batch, k)
            ]
            reverse = [a[j] @ p[i] for j in others if not _false_pair(batch.pairs, j, i)]
            for negatives in (forward, reverse):
                total += _one(a[i] @ p[i], negatives, config, scale) / (2 * count * len(config.dims))
    return total


def _one(positive: float, negatives: list[float], config: ObjectiveConfig, scale: float) -> float:
    if config.loss == "infonce":
        return math.log1p(sum(math.exp((n - positive) * scale) for n in negatives))
    m, g = config.circle_margin, config.circle_scale
    pull = math.exp(-g * max(0, 1 + m - positive) * (positive - (1 - m)))
    return math.log1p(sum(math.exp(g * max(0, n + m) * (n - m)) for n in negatives) * pull)


def _same(a: ItemLabels, i: int, b: ItemLabels, j: int) -> bool:
    product, text = int(a.product_N[i]), int(a.text_N[i])
    return (product >= 0 and product == int(b.product_N[j])) or (text >= 0 and text == int(b.text_N[j]))


def _false_pair(labels: PairLabels, i: int, j: int) -> bool:
    """Whether pair j's positive is no negative of pair i's anchor."""
    return (
        _same(labels.positives, i, labels.positives, j)
        or _same(labels.own, i, labels.positives, j)
        or _same(labels.own, i, labels.own, j)
        or (int(labels.user_P[i]) >= 0 and int(labels.user_P[i]) == int(labels.user_P[j]))
    )


def _false_item(labels: PairLabels, i: int, candidates: ItemLabels, k: int) -> bool:
    user = int(labels.user_P[i])
    same_taste = [i] + [j for j in range(len(labels)) if user >= 0 and int(labels.user_P[j]) == user]
    return any(
        _same(labels.positives, j, candidates, k) or _same(labels.own, j, candidates, k) for j in same_taste
    )


def _in_batch(batch: Batch, k: int) -> bool:
    product = int(batch.queue.product_N[k])
    here = torch.cat([batch.pairs.positives.product_N, batch.hard.product_N])
    return product in here.tolist()
