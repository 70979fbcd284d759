"""CUBE: frozen vectors beside trained ids, crossed in every way that the target and a behaviour allow.

The seven inputs of figure 5 of "MOON Embedding"
(https://arxiv.org/abs/2511.11305), for behaviours on items:
(1) the ID interest, which is the model's own target attention; (2) the fusion interest `Σ w(s_b) e_b`,
content picks the behaviours, trained ids say what they mean; (3) the content interest `Σ w(s_b) r_b`; (4) the
similarities {s_b} themselves; (5) the target's vector `r_t`. Inputs 6 and 7 belong to queries. `w` is not
published; ours is `softmax(s / T)` with a learnable T. Our reading of (4): the K highest in order, the mean
of the best three, the mean, and the histogram of SimTier, which carries the number of behaviours too.

Legend: B rows, N behaviours, K nearest, D frozen width, E trained width, P projected width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr.content_projection import ContentProjection
from ctr.jagged import row_sums, weighted_sums, weighted_table_sums
from ctr.similarity import ContentInputs
from ctr.simtier import SimTier

_MOST_NEGATIVE = -30.0


class Cube(nn.Module):
    """Inputs 2 to 5 of CUBE.

    Args:
        dimension: width D of the frozen vectors.
        embedding_dim: width E of the trained ids.
        top: how many of the highest similarities are given in order.
        projected: width P of the projected vectors.
        temperature: T at the start, in standard deviations of the training rows' cosines.
    """

    def __init__(
        self,
        dimension: int,
        embedding_dim: int,
        top: int = 10,
        projected: int = 16,
        temperature: float = 0.7,
    ) -> None:
        super().__init__()
        self.tiers = SimTier()
        self.target = ContentProjection(dimension, projected)
        self.interest = ContentProjection(dimension, projected)
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log())
        self.width = embedding_dim + 2 * projected + top + 2 + self.tiers.width

    def fit(self, inputs: ContentInputs) -> None:
        """Learn the scale of the inputs from training rows."""
        self.target.fit(inputs.table_VD, inputs.target_B)
        self.interest.fit(inputs.table_VD, inputs.target_B)

    def forward(self, inputs: ContentInputs) -> Tensor:
        """(B, width)."""
        weight_N = self.weights(inputs)
        fusion_BE = weighted_sums(weight_N, inputs.behaviour_NE, inputs.row_N, inputs.offset_B1)
        content_BD = weighted_table_sums(weight_N, inputs.table_VD, inputs.history_N, inputs.offset_B1)
        target_BD = inputs.table_VD[inputs.target_B]
        return torch.cat(
            [
                fusion_BE,
                self.interest(content_BD, inputs.count_B > 0),
                similarity_summary(inputs),
                self.tiers(inputs),
                self.target(target_BD, inputs.target_B > 0),
            ],
            dim=1,
        )

    def weights(self, inputs: ContentInputs) -> Tensor:
        """`softmax(s / T)` over each row's covered behaviours, (N,); uncovered behaviours weigh nothing."""
        best_N = inputs.top_BK[:, 0].index_select(0, inputs.row_N)
        # Never all of a row: the best behaviour's exponent is 0 (to the step of the sort), so the sum is
        # about 1 or more.
        exponent_N = ((inputs.score_N - best_N) * (-self.log_temperature).exp()).clamp(min=_MOST_NEGATIVE)
        raw_N = exponent_N.exp() * inputs.covered_N
        ones_N1 = torch.ones_like(inputs.score_N).unsqueeze(1)
        total_B1 = weighted_sums(raw_N, ones_N1, inputs.row_N, inputs.offset_B1)
        return raw_N / total_B1.clamp_min(1e-12).squeeze(1).index_select(0, inputs.row_N)


def similarity_summary(inputs: ContentInputs) -> Tensor:
    """The K highest similarities in order, the mean of the best three, the mean of all: (B, K + 2)."""
    count_B1 = inputs.count_B.unsqueeze(1)
    best_B1 = inputs.top_BK[:, :3].sum(1, keepdim=True) / count_B1.clamp(1, 3)
    mean_B1 = row_sums(inputs.score_N.unsqueeze(1), inputs.offset_B1) / count_B1.clamp_min(1)
    return torch.cat([inputs.top_BK, best_B1, mean_B1], dim=1)
