"""A batch on its way to the encoder: rows of the product table, what they show, and who they are.

Shapes: P pairs and H hard negatives of this process, A queries of one modality, J items, B products of all
parts, E embedding width, R routed experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from encoders.modality_mix import MODALITIES, MODALITY_VIEWS
from encoders.objective.intra_product import OwnSides
from encoders.objective.joint_objective import JointBatch, JointObjective, Shown
from encoders.objective.labels import ItemLabels, PairLabels
from encoders.objective.negative_queue import NegativeQueue
from encoders.products import EVERYTHING, IMAGE_ONLY, TEXT_ONLY, View

Part = tuple[np.ndarray, View]


@dataclass(frozen=True)
class PairSides:
    """Pairs of one combination of views, for `Objective`.

    Attributes:
        anchor_P, positive_P, hard_H: rows of the table, as they are shown.
        query_view, item_view: what of anchors, and of positives and hard negatives, is shown.
        labels, hard_labels: who the pairs and the hard negatives are.
    """

    anchor_P: np.ndarray
    positive_P: np.ndarray
    hard_H: np.ndarray
    query_view: View
    item_view: View
    labels: PairLabels
    hard_labels: ItemLabels

    def parts(self) -> list[Part]:
        """Rows and views that the encoder encodes: positives, hard negatives, anchors."""
        return [
            (self.positive_P, self.item_view),
            (self.hard_H, self.item_view),
            (self.anchor_P, self.query_view),
        ]

    def loss(
        self, objective: nn.Module, outputs_BF: Tensor, start_PE: Tensor | None, queue: NegativeQueue
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of what the encoder made of the parts, and what the history says of it."""
        device, sizes = outputs_BF.device, [len(rows) for rows, _ in self.parts()]
        positives_PE, hard_HE, anchors_PE = outputs_BF.split(sizes)
        labels, hard = self.labels.to(device), self.hard_labels.to(device)
        return objective(anchors_PE, positives_PE, hard_HE, labels, hard, start_PE, queue), {}


@dataclass(frozen=True)
class JointSides:
    """Pairs whose queries are shown in every modality that was drawn for them, for `JointObjective`.

    Attributes:
        asked: per query modality the pairs (A,) that are shown in it.
        own_J, own_labels: items shown by their picture alone and by their words alone; () without them.
        margin: of the sample filter; None filters nothing.
        record: is told per modality which pairs counted how much.
    """

    anchor_P: np.ndarray
    positive_P: np.ndarray
    hard_H: np.ndarray
    labels: PairLabels
    hard_labels: ItemLabels
    asked: Sequence[np.ndarray]
    own_J: np.ndarray
    own_labels: ItemLabels
    margin: float | None
    record: Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], None]
    item_view: View = EVERYTHING

    def parts(self) -> list[Part]:
        """As `PairSides.parts`: positives, hard negatives, the queries of each modality, pictures, words."""
        queries = [
            (self.anchor_P[pair_A], view) for pair_A, view in zip(self.asked, MODALITY_VIEWS, strict=True)
        ]
        return [
            (self.positive_P, self.item_view),
            (self.hard_H, self.item_view),
            *queries,
            (self.own_J, IMAGE_ONLY),
            (self.own_J, TEXT_ONLY),
        ]

    def loss(
        self, objective: nn.Module, outputs_BF: Tensor, start_PE: Tensor | None, queue: NegativeQueue
    ) -> tuple[Tensor, dict[str, float]]:
        """As `PairSides.loss`; behind the vectors, `outputs_BF` holds the gates of the experts."""
        assert isinstance(objective, JointObjective)
        device, width = outputs_BF.device, objective.config.dims[0]
        parts = outputs_BF.split([len(rows) for rows, _ in self.parts()])
        vectors = [part_NF[:, :width] for part_NF in parts]
        shown = [
            Shown(vectors[2 + m], torch.from_numpy(pair_A).to(device), parts[2 + m][:, width:])
            for m, pair_A in enumerate(self.asked)
        ]
        sides = OwnSides(vectors[-2], vectors[-1], self.own_labels.to(device)) if len(self.own_J) else None
        batch = JointBatch(
            shown, vectors[0], vectors[1],
            self.labels.to(device), self.hard_labels.to(device), sides, start_PE,
        )  # fmt: skip
        found = objective(batch, queue, self.margin)
        figures = {"intra": float(found.intra), "sparsity": float(found.sparsity)}
        for name, inter, weight in zip(
            MODALITIES, found.inter_M.tolist(), found.weight_M.tolist(), strict=True
        ):
            figures |= {f"inter_{name}": inter, f"weight_{name}": weight}
        if self.margin is not None:
            figures |= {"filtered": found.filtered(), "margin": self.margin}
            self.record(self.asked, [weight_A.cpu().numpy() for weight_A in found.weight_AM])
        return found.total, figures


Sides = PairSides | JointSides
