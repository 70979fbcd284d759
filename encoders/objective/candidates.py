"""All vectors that this process's pairs are compared with, and which of them are no negatives.

Shapes: P pairs and H hard negatives of this process; N pairs and M hard negatives of all processes; C
candidates, which are N positives, M hard negatives and the queue, in this order; E embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from encoders.objective.false_negatives import false_among_items, false_among_pairs
from encoders.objective.labels import ItemLabels, PairLabels
from encoders.objective.negative_queue import NegativeQueue
from moonrec.gathering import gather_sections, world_size


@dataclass(frozen=True)
class Batch:
    """What is found and what is not: vectors, and who they are.

    Attributes:
        positives_NE: unit vectors of what the pairs' anchors found.
        hard_ME: unit vectors of hard negatives; each serves all anchors.
        pairs, hard: labels of both.
        first: number of the first of this process's own pairs.
        gathered: whether it is the batch of all processes.
    """

    positives_NE: Tensor
    hard_ME: Tensor
    pairs: PairLabels
    hard: ItemLabels
    first: int = 0
    gathered: bool = False


@dataclass(frozen=True)
class Candidates:
    """What anchors choose from.

    Attributes:
        vectors_CE: the candidates.
        excluded_PC: those that are no negatives of an anchor.
    """

    vectors_CE: Tensor
    excluded_PC: Tensor


def gather_batch(local: Batch) -> Batch:
    """The batches of all processes as one; gradients flow back to the vectors' processes."""
    if world_size() == 1:
        return local
    vectors = gather_sections([local.positives_NE, local.hard_ME])
    positives_NE, hard_ME = (torch.cat(parts) for parts in vectors)
    pairs, own, users = local.pairs.positives, local.pairs.own, local.pairs.user_P
    pair_N5 = torch.stack([pairs.product_N, pairs.text_N, own.product_N, own.text_N, users], 1)
    hard_M2 = torch.stack([local.hard.product_N, local.hard.text_N], 1)
    pair_parts, hard_parts = gather_sections([pair_N5, hard_M2])
    product_N, text_N, own_product_N, own_text_N, user_N = torch.cat(pair_parts).unbind(1)
    return Batch(
        positives_NE,
        hard_ME,
        pairs=PairLabels(ItemLabels(product_N, text_N), ItemLabels(own_product_N, own_text_N), user_N),
        hard=ItemLabels(*torch.cat(hard_parts).unbind(1)),
        first=sum(len(part) for part in pair_parts[: dist.get_rank()]),
        gathered=True,
    )


def candidates_of(anchors: PairLabels, batch: Batch, queue: NegativeQueue | None) -> Candidates:
    """Positives and hard negatives of a batch, and the queue, as candidates of some of its anchors.

    Queued items that stand in the batch are left out: their vectors there are newer.
    """
    vectors = [batch.positives_NE, batch.hard_ME]
    excluded = [false_among_pairs(anchors, batch.pairs), false_among_items(anchors, batch.pairs, batch.hard)]
    if queue is not None and len(queue):
        vectors.append(queue.vectors_QE.to(batch.positives_NE))
        false_PQ = false_among_items(anchors, batch.pairs, queue.labels)
        here_J = torch.cat([batch.pairs.positives.product_N, batch.hard.product_N])
        excluded.append(
            false_PQ | (torch.isin(queue.labels.product_N, here_J) & (queue.labels.product_N >= 0))
        )
    return Candidates(torch.cat(vectors), torch.cat(excluded, 1))
