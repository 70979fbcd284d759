"""How much the objective of each query modality weighs, learnt together with the router (MOON2.0,
https://arxiv.org/abs/2511.12449, the section on the modality-driven mixture of experts).

Each expert belongs to each objective by a share, learnt as a matrix of experts and objectives. An objective
weighs as much as the experts that its samples are routed to belong to it: the mean over its samples of the
shares, weighted by their gates.

Shapes: A samples of one objective, R routed experts, M objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_START = 0.01


class ModalityWeights(nn.Module):
    """Weights of M objectives from the gates of their samples; the parameter is the matrix (R, M).

    The paper leaves its start open. Ours is nearly even: at exactly even shares the sparsity has no gradient,
    so small normal numbers tell the shares apart. They are the same in every run and every process.

    The loss that the weights multiply pulls them, too, towards the objective whose loss is smallest: with
    constant losses they end there, and the sooner, the higher the learning rate of the matrix is.
    """

    def __init__(self, experts: int, objectives: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix_RM = nn.Parameter(_START * torch.randn(experts, objectives, generator=generator))

    def shares(self) -> Tensor:
        """p (R, M): how much of each expert belongs to each objective; rows sum to 1."""
        return self.matrix_RM.softmax(1)

    def forward(self, gates: Sequence[Tensor]) -> Tensor:
        """The weight of each objective, (M,), between its smallest and its largest share.

        Args:
            gates: per objective the gates (A, R) of its samples, of all processes. A sample none of whose
                tokens was routed has a row of zeros and counts as routed evenly (ours): nothing is known
                about it. An objective without samples weighs exactly 0.

        Raises:
            ValueError: the numbers of objectives differ.
        """
        mean_MR = torch.stack([_mean(_known(gate_AR)) for gate_AR in gates])
        if len(mean_MR) != self.matrix_RM.shape[1]:
            raise ValueError(f"gates of {len(mean_MR)} objectives, weights of {self.matrix_RM.shape[1]}")
        return (self.shares().T * mean_MR).sum(1)

    def sparsity(self) -> Tensor:
        """The mean entropy (nats) of the experts' shares, a scalar; minimised, it gives each expert to one
        objective."""
        log_RM = self.matrix_RM.log_softmax(1)
        return -(log_RM.exp() * log_RM).sum(1).mean()


def _known(gate_AR: Tensor) -> Tensor:
    """The gates, with even ones where a row says nothing."""
    even_AR = torch.full_like(gate_AR, 1 / gate_AR.shape[1])
    return torch.where(gate_AR.any(1, keepdim=True), gate_AR, even_AR)


def _mean(gate_AR: Tensor) -> Tensor:
    """The mean row; zeros of no rows."""
    return gate_AR.sum(0) / max(len(gate_AR), 1)
