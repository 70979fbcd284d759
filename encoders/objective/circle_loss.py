"""Circle loss: each similarity is weighted by how far it still is from where it should be.

Shapes: B anchors, C candidates, E embedding width.
"""

from __future__ import annotations

from torch import Tensor, nn


class CircleLoss(nn.Module):
    """Logits of circle loss (Sun et al., https://arxiv.org/abs/2002.10857).

    With one positive p and negatives j, `log(1 + sum_j exp(g a_n (s_n - m)) exp(-g a_p (s_p - (1 - m))))`
    is the cross-entropy of the logits `g a_p (s_p - (1 - m))` of the positive and `g a_n (s_n - m)` of the
    negatives. The weights `a_p = [1 + m - s_p]+` and `a_n = [s_n + m]+` are constants to the gradient, as
    in the paper's own derivative (its equation 9: the factor of a negative's gradient is `g (s_n + m)`).

    Args of the constructor:
        margin: m; a positive is wanted above 1 - m, a negative below m.
        scale: g.
    """

    def __init__(self, margin: float = 0.25, scale: float = 64.0) -> None:
        super().__init__()
        self.margin = margin
        self.scale = scale

    def forward(self, anchors_BE: Tensor, candidates_CE: Tensor, positive_B: Tensor) -> Tensor:
        """(B, C) logits of unit vectors; column `positive_B` of a row is its positive."""
        similarity_BC = anchors_BE @ candidates_CE.T
        weight_BC = (similarity_BC.detach() + self.margin).relu_().mul_(self.scale)
        negative_BC = weight_BC * (similarity_BC - self.margin)
        similarity_B1 = similarity_BC.gather(1, positive_B[:, None])
        weight_B1 = (1 + self.margin - similarity_B1.detach()).relu_().mul_(self.scale)
        return negative_BC.scatter(1, positive_B[:, None], weight_B1 * (similarity_B1 - (1 - self.margin)))
