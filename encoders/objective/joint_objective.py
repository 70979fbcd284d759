"""What MOON2.0 minimises: queries of all modalities jointly, and every item's picture with its own words.

Shapes: P pairs and H hard negatives of this process, A anchors of one query modality, E embedding width, R
routed experts, M query modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encoders.objective.candidates import Batch, Candidates, candidates_of, gather_batch
from encoders.objective.config import JointConfig, ObjectiveConfig
from encoders.objective.gathering import sum_over_processes
from encoders.objective.infonce import InfoNCE
from encoders.objective.intra_product import OwnSides, intra_product_loss
from encoders.objective.labels import ItemLabels, PairLabels
from encoders.objective.modality_weights import ModalityWeights
from encoders.objective.negative_queue import NegativeQueue
from encoders.objective.objective import at_least_float32, drift
from encoders.objective.sample_filter import confidence, weights_of_pairs
from encoders.objective.two_way import Asked, two_way_losses
from moonrec.gathering import gather_sections, world_size

# Against a division by the weights of queries that are all filtered out.
_LEAST_WEIGHT = 1e-3


@dataclass(frozen=True)
class Shown:
    """The queries that are shown in one modality.

    Attributes:
        vectors_AE: their unit vectors.
        pair_A: the pair of this process that each belongs to; at most one per pair.
        gates_AR: how much of each routed expert they used (`RouterStatistics.gate_BR`); R may be 0.
    """

    vectors_AE: Tensor
    pair_A: Tensor
    gates_AR: Tensor


@dataclass(frozen=True)
class JointBatch:
    """A batch of this process.

    Attributes:
        shown: per query modality its queries; a modality may have none.
        positives_PE: unit vectors of what was found, shown whole.
        hard_HE: unit vectors of hard negatives, shown whole; each serves all queries.
        pairs, hard: who they are.
        sides: positives and hard negatives by picture and by words alone; None without intra-product loss.
        start_PE: the positives' vectors when training began; None where nothing is kept.
    """

    shown: Sequence[Shown]
    positives_PE: Tensor
    hard_HE: Tensor
    pairs: PairLabels
    hard: ItemLabels
    sides: OwnSides | None = None
    start_PE: Tensor | None = None


@dataclass(frozen=True)
class JointLoss:
    """What a batch came to; only `total` has a gradient.

    Attributes:
        total: what is minimised on this process.
        inter_M: mean loss of the queries of each modality, weighted as the filter says, of all processes; NaN
            for one without queries.
        weight_M: the objective weights.
        intra, sparsity: the other two parts, unweighted; `intra` is NaN without two items to align.
        weight_AM: per modality the weights that filtering gave this process's queries (all 1 without).
    """

    total: Tensor
    inter_M: Tensor
    weight_M: Tensor
    intra: Tensor
    sparsity: Tensor
    weight_AM: list[Tensor]

    def filtered(self) -> float:
        """The share of this process's queries that count less than 1."""
        weights = torch.cat(self.weight_AM)
        return float((weights < 1).float().mean()) if len(weights) else 0.0


class JointObjective(nn.Module):
    """The loss of MOON2.0 (https://arxiv.org/abs/2511.12449).

    Inter-product: the queries of each modality (image, text, both) must find their item, shown whole, among
    the negatives of `Objective`, and be found by it; the losses of the modalities are averaged with weights
    that `ModalityWeights` derives from the experts that the queries use. Intra-product:
    `intra_product_loss`. Then the sparsity of the experts' objectives. Balancing the experts is the encoder's
    part (`encoders.objective.gradient_cache`). Queries that the encoder does not believe are weighted down
    (`encoders.objective.sample_filter`).

    With `spatial` the mean over the processes of the loss, and of its gradients, is the loss of one process
    with the whole batch, but for the intra-product part, whose negatives are those of each process. Without
    it each process takes the means of its own queries.

    Args of the constructor:
        config: loss, Matryoshka sizes, negatives, and what holds the vectors.
        joint: the parts and their weights.
        experts: R, the routed experts per layer; 0 without any, which makes the weights even.
        modalities: M.
    """

    def __init__(
        self, config: ObjectiveConfig, joint: JointConfig, *, experts: int, modalities: int = 3
    ) -> None:
        super().__init__()
        self.config = config
        self.joint = joint
        self.loss = InfoNCE()
        self.modalities = modalities
        self.weights = ModalityWeights(experts, modalities) if joint.learned_weights and experts else None

    def forward(
        self, local: JointBatch, queue: NegativeQueue | None = None, margin: float | None = None
    ) -> JointLoss:
        """The loss of a batch, in float32 at least.

        Args:
            local: this process's share.
            queue: items of past batches.
            margin: of the sample filter (`margin_of`); None filters nothing.

        Raises:
            ValueError: there is no pair.
        """
        if not len(local.pairs):
            raise ValueError("a batch without pairs")
        with torch.autocast(local.positives_PE.device.type, enabled=False):
            positives_PE = at_least_float32(local.positives_PE)
            own = Batch(positives_PE, at_least_float32(local.hard_HE), local.pairs, local.hard)
            batch = gather_batch(own) if self.config.spatial else own
            candidates = candidates_of(local.pairs, batch, queue)
            omega_M = self._objective_weights(local.shown)
            losses, weights = [], []
            for shown in local.shown:
                asked = Asked.of(at_least_float32(shown.vectors_AE), shown.pair_A, batch)
                loss_A = two_way_losses(
                    self.loss, self.config.dims, asked, positives_PE, local.pairs, batch, candidates
                )
                weight_A = self._believed(asked, positives_PE, batch, candidates, margin)
                losses.append((weight_A * loss_A).sum())
                weights.append(weight_A)
            sums_M, weight_M = torch.stack(losses), torch.stack([weight_A.sum() for weight_A in weights])
            # Of the weights, not of the queries: filtering a modality must not make its objective lighter.
            inter_M = sums_M * self._share(weight_M)
            intra = positives_PE.new_zeros(())
            aligned = local.sides is not None and len(local.sides.labels) > 1
            if local.sides is not None:
                intra = intra_product_loss(self.loss, self.config.dims, _in_float32(local.sides))
            sparsity = positives_PE.new_zeros(()) if self.weights is None else self.weights.sparsity()
            kept = self.config.keep_weight * drift(positives_PE, local.start_PE) / len(batch.pairs)
            # By their sum, which is about 1 where all modalities are there: a log of photos alone learns to
            # find products as hard as one of all three.
            inter = (omega_M * inter_M).sum() / omega_M.detach().sum().clamp_min(_LEAST_WEIGHT)
            total = (
                self.joint.inter_weight * inter
                + self.joint.intra_weight * intra
                + self.joint.sparsity_weight * sparsity
                + kept * (world_size() if batch.gathered else 1)
            )
        return JointLoss(
            total,
            _mean_of_each(sums_M.detach(), weight_M),
            omega_M.detach(),
            intra.detach() if aligned else intra.new_tensor(torch.nan),
            sparsity.detach(),
            weights,
        )

    def temperature(self) -> float:
        """The temperature that InfoNCE has learnt so far."""
        return 1 / float(self.loss.scale().detach())

    def _objective_weights(self, shown: Sequence[Shown]) -> Tensor:
        """omega (M,) of the whole batch, the same on all processes."""
        if self.weights is not None:
            return self.weights(
                [torch.cat(gather_sections([at_least_float32(one.gates_AR)])[0]) for one in shown]
            )
        device = self.loss.log_scale.device
        counts_M = torch.tensor([float(len(one.pair_A)) for one in shown], device=device)
        return (sum_over_processes(counts_M) > 0).float() / self.modalities

    def _believed(
        self,
        asked: Asked,
        positives_PE: Tensor,
        batch: Batch,
        candidates: Candidates,
        margin: float | None,
    ) -> Tensor:
        """The weight (A,) of each of this process's anchors."""
        if margin is None:
            return asked.vectors_AE.new_ones(len(asked.pair_A))
        fresh = len(batch.positives_NE) + len(batch.hard_ME)
        phi_A = confidence(
            asked.vectors_AE.detach(),
            positives_PE[asked.pair_A].detach(),
            candidates.vectors_CE[:fresh].detach(),
            candidates.excluded_PC[asked.pair_A, :fresh],
            margin,
        )
        return weights_of_pairs(phi_A)

    def _share(self, weight_M: Tensor) -> Tensor:
        """What turns this process's sums into its part of the mean of each modality (M,)."""
        if self.config.spatial:
            weight_M = sum_over_processes(weight_M) / world_size()
        return torch.where(weight_M > 0, 1 / weight_M.clamp_min(_LEAST_WEIGHT), 0)


def _mean_of_each(sums_M: Tensor, weight_M: Tensor) -> Tensor:
    """The modalities' mean losses over all processes; NaN where there is no query."""
    sums_M, weight_M = sum_over_processes(sums_M), sum_over_processes(weight_M)
    return torch.where(weight_M > 0, sums_M / weight_M.clamp_min(_LEAST_WEIGHT), torch.nan)


def _in_float32(sides: OwnSides) -> OwnSides:
    return OwnSides(at_least_float32(sides.images_JE), at_least_float32(sides.texts_JE), sides.labels)
