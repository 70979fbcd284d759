"""The choices of the contrastive objective."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from encoders.objective.infonce import TEMPERATURE
from moonrec.errors import UserError

LOSSES = ("infonce", "circle")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the second stage of training optimises.

    Attributes:
        loss: `infonce` (its temperature is learnt) or `circle`.
        dims: Matryoshka sizes, largest first; each prefix of the vector is trained to stand alone.
        spatial: whether the items of all processes are negatives, or only those of an anchor's own process.
        queue: number of past items that are negatives; 0 for none.
        circle_margin, circle_scale: m and gamma of circle loss (MOON Embedding, arXiv 2511.11305, gives no
            values; the usual ones are .25 and 64 to 256).
        balance_weight: of the load balancing of routed experts.
        keep_weight: how strongly the positives' vectors are held to where they were when training began
            (ours: behaviour refines what pretraining knows, it should not erase it).

    Raises:
        UserError: a value that makes no sense.
    """

    loss: str
    dims: tuple[int, ...]
    spatial: bool = True
    queue: int = 0
    circle_margin: float = 0.25
    circle_scale: float = 64.0
    balance_weight: float = 0.01
    keep_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UserError(f"the loss is {self.loss!r}; choose one of {', '.join(LOSSES)}")
        if not self.dims or min(self.dims) < 1 or any(a <= b for a, b in pairwise(self.dims)):
            raise UserError(f"the sizes of a vector are {self.dims}; give positive numbers, largest first")
        if self.queue < 0:
            raise UserError(f"the queue holds {self.queue} items; give 0 (no queue) or more")
        if not 0 <= self.circle_margin < 1 or self.circle_scale <= 0:
            raise UserError(
                f"circle loss has margin {self.circle_margin:g} and scale {self.circle_scale:g}; give a "
                "margin of 0 to 1 (usual: .25) and a positive scale (usual: 64 to 256)"
            )
        if self.balance_weight < 0 or self.keep_weight < 0:
            raise UserError(
                f"the weights of balancing and keeping are {self.balance_weight:g} and {self.keep_weight:g}; "
                "give 0 or more"
            )

    def steeper(self) -> float:
        """How much steeper the loss is than InfoNCE as it starts: circle loss by its scale times that
        temperature. What holds the vectors is weighted with it, or it would drown (ours)."""
        return self.circle_scale * TEMPERATURE if self.loss == "circle" else 1.0


@dataclass(frozen=True)
class JointConfig:
    """The parts of MOON2.0's loss (https://arxiv.org/abs/2511.12449); the paper does not give the weights.

    Attributes:
        learned_weights: whether the query modalities are weighted by the experts that they use, or alike.
        inter_weight: of query against item, all modalities together.
        intra_weight: of an item's picture against its own words.
        sparsity_weight: of how undecided the experts are between the modalities.
        filter: whether pairs that the encoder does not believe are weighted down.

    Raises:
        UserError: a weight below 0, or nothing that is left to learn from.
    """

    learned_weights: bool = True
    inter_weight: float = 1.0
    intra_weight: float = 1.0
    sparsity_weight: float = 0.01
    filter: bool = True

    def __post_init__(self) -> None:
        weights = (self.inter_weight, self.intra_weight, self.sparsity_weight)
        if min(weights) < 0 or not (self.inter_weight or self.intra_weight):
            raise UserError(
                f"the weights of the joint round are {', '.join(f'{w:g}' for w in weights)}; give 0 or more, "
                "and --inter-weight or --intra-weight above 0"
            )
