"""Temporal negatives: the items of past batches, first in, first out.

Shapes: Q queued items, N new items, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from encoders.objective.labels import ItemLabels
from moonrec.gathering import gather_sections


class NegativeQueue:
    """Vectors of items that recent batches encoded, oldest first, each product once.

    MOON's temporal negatives (https://arxiv.org/abs/2508.11999), as in cross-batch memory
    (https://arxiv.org/abs/1912.06798): the vectors are as old as their batch, and no second encoder computes
    them. All processes hold the same queue. When a product comes again its newer vector takes the place of
    the
    older one: an item that stood twice would weigh twice.

    Example:
        >>> queue = NegativeQueue(8192, 256)
        >>> loss = objective(anchors_PE, positives_PE, hard_HE, pairs, hard_labels, queue=queue)
        >>> # ... backward, optimizer step ...
        >>> queue.push(positives_PE, pairs.positives)
        >>> queue.push(hard_HE, hard_labels)

    Args of the constructor:
        capacity: number of items held at most; 0 switches the queue off.
        dim: width E of the vectors.
        device: where they are kept.
    """

    def __init__(self, capacity: int, dim: int, device: torch.device | str = "cpu") -> None:
        if capacity < 0:
            raise ValueError(f"a queue of {capacity} items")
        self.capacity = capacity
        self.vectors_QE = torch.zeros(0, dim, device=device)
        self.labels = ItemLabels.nobody(0, device)

    def __len__(self) -> int:
        return len(self.vectors_QE)

    def push(self, vectors_NE: Tensor, labels: ItemLabels) -> None:
        """Append the items of all processes, in the order of the processes; the oldest make room.

        Call it after the optimizer's step, on all processes.

        Args:
            vectors_NE: vectors of this process's items; gradients are cut.
            labels: who they are.
        """
        if not self.capacity:
            return
        labels_N2 = torch.stack([labels.product_N, labels.text_N], 1).to(self.vectors_QE.device)
        new_NE = vectors_NE.detach().to(self.vectors_QE)
        new_NE, labels_N2 = (torch.cat(gather_sections([x])[0]) for x in (new_NE, labels_N2))
        kept_N = _last_of_each(labels_N2[:, 0])
        new_NE, new = new_NE[kept_N], ItemLabels(*labels_N2[kept_N].unbind(1))
        repeated_Q = torch.isin(self.labels.product_N, new.product_N) & (self.labels.product_N >= 0)
        stay_Q = (~repeated_Q).nonzero()[:, 0]
        labels = ItemLabels.cat([self.labels[stay_Q], new])
        self.vectors_QE = torch.cat([self.vectors_QE[stay_Q], new_NE])[-self.capacity :].clone()
        self.labels = ItemLabels(
            labels.product_N[-self.capacity :].clone(), labels.text_N[-self.capacity :].clone()
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold to go on bit-equal."""
        return {"vectors": self.vectors_QE, "products": self.labels.product_N, "texts": self.labels.text_N}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put a checkpoint's queue back.

        Raises:
            ValueError: it does not fit this queue.
        """
        vectors_QE = state["vectors"]
        if vectors_QE.shape[1] != self.vectors_QE.shape[1] or len(vectors_QE) > self.capacity:
            raise ValueError(
                f"the saved queue has shape {tuple(vectors_QE.shape)}, expected at most "
                f"({self.capacity}, {self.vectors_QE.shape[1]})"
            )
        device = self.vectors_QE.device
        self.vectors_QE = vectors_QE.to(device, copy=True)
        self.labels = ItemLabels(
            state["products"].to(device, copy=True), state["texts"].to(device, copy=True)
        )


def _last_of_each(product_N: Tensor) -> Tensor:
    """Rows, in order, that no later row of the same product follows; unnamed products are all different."""
    row_N = torch.arange(len(product_N), device=product_N.device)
    code_N = torch.where(product_N < 0, -1 - row_N, product_N)
    distinct, inverse_N = torch.unique(code_N, return_inverse=True)
    last = row_N.new_zeros(len(distinct)).scatter_reduce(0, inverse_N, row_N, "amax", include_self=False)
    return last.sort().values
