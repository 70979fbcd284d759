"""DIN: the user's interest as seen from the target.

Each behaviour is weighed by a small network that looks at it together with the target, and the weighted
behaviours are summed. The weights are not normalised, so that many relevant behaviours make a strong interest
(Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction", section 4.3, arXiv:1706.06978).

Legend: B rows, N behaviours, E width, H hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.jagged import expand, weighted_sums

_FEWEST_ROWS, _FEWEST_OUTPUTS = 32, 4


class TargetAttention(nn.Module):
    """Target attention over jagged histories.

    The network reads `[t, b, t − b, t ⊙ b]`. Its first layer is linear in each of them, so the parts that
    depend on the target alone are computed once per row rather than once per behaviour: the same numbers at
    half the work.

    Args:
        dimension: width E of target and behaviours.
        hidden: width H of the hidden layer (36 in the paper's figure 2).
    """

    def __init__(self, dimension: int, hidden: int = 32) -> None:
        super().__init__()
        self.target = nn.Linear(dimension, hidden)
        self.pair = nn.Linear(2 * dimension, hidden, bias=False)
        self.score = nn.Linear(hidden, 1)

    def forward(self, target_BE: Tensor, behaviour_NE: Tensor, row_N: Tensor, offset_B1: Tensor) -> Tensor:
        """Sum up each row's behaviours.

        Args:
            target_BE: trained embeddings of the targets.
            behaviour_NE: trained embeddings of the behaviours, all rows end to end.
            row_N: the row of each behaviour.
            offset_B1: (B + 1,) where each row's behaviours begin.

        Returns:
            (B, E) interests; zeros for a row without history.
        """
        return weighted_sums(
            self.weights(target_BE, behaviour_NE, row_N, offset_B1), behaviour_NE, row_N, offset_B1
        )

    def weights(self, target_BE: Tensor, behaviour_NE: Tensor, row_N: Tensor, offset_B1: Tensor) -> Tensor:
        """The weight of each behaviour, (N,)."""
        target_NE = expand(target_BE, row_N, offset_B1)
        pair_N2E = torch.cat([behaviour_NE, target_NE * behaviour_NE], dim=1)
        linear = F.linear if self.training else independent_linear
        hidden_NH = linear(pair_N2E, self.pair.weight)
        hidden_NH = F.relu(hidden_NH + expand(self.target(target_BE), row_N, offset_B1), inplace=True)
        return linear(hidden_NH, self.score.weight, self.score.bias).squeeze(1)


def independent_linear(input_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """A linear layer whose rows do not depend on how many other rows there are, not even in the last bit.

    BLAS takes other kernels, with other orders of summing, for a single output and for a handful of rows (12
    or fewer where we measured). A behaviour's weight would then depend on the histories of other impressions
    in the batch, and so on events that are later than its own. Scoring pays for a few more rows and outputs
    instead.
    """
    rows, outputs = len(input_NI), len(weight_OI)
    padded = F.pad(input_NI, (0, 0, 0, max(0, _FEWEST_ROWS - rows)))
    weights = F.pad(weight_OI, (0, 0, 0, max(0, _FEWEST_OUTPUTS - outputs)))
    result_NO = F.linear(padded, weights)[:rows, :outputs]
    return result_NO if bias_O is None else result_NO + bias_O
