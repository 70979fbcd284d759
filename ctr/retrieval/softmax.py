"""Sampled softmax with the batch's candidates, over all processes.

The loss of a row is −log of its target's share among all items, estimated from the candidates at hand:
e^s⁺ / (e^s⁺ + Σ e^s / q), where q is how many times the candidate's item is expected among the negatives
(importance sampling; the logQ correction of Yi et al. 2019). The target itself is no draw, so it is not
divided. Left out are candidates that are the target's item once more, and, where a user's own history is no
candidate later, the items of that history.

Legend: B rows, C candidates of all processes, D width, K pairs of a row and an item, U distinct items.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.retrieval.batch import RetrievalBatch
from ctr.retrieval.towers import START
from moonrec.gathering import gather_sections, world_size

# Within these the softmax neither saturates nor goes flat; ours.
LOWEST_TEMPERATURE, _HIGHEST = 0.02, 1.0
# Instead of minus infinity, of which a row without any other candidate would make NaN gradients.
_HIDDEN = -1e4


class SampledSoftmax(nn.Module):
    """The loss, with its learnt temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor([math.log(START)]))

    @property
    def temperature(self) -> Tensor:
        """(1,) what cosines are divided by."""
        return self.log_temperature.clamp(math.log(LOWEST_TEMPERATURE), math.log(_HIGHEST)).exp()

    @torch.no_grad()
    def start_at(self, temperature: float) -> None:
        """Set the temperature."""
        self.log_temperature.fill_(math.log(temperature))

    def forward(self, user_BD: Tensor, item_CD: Tensor, batch: RetrievalBatch) -> tuple[Tensor, Tensor]:
        """The loss of this process's rows times `batch.loss_scale`, and which rows rank their target above
        all corrected negatives.

        Args:
            user_BD, item_CD: unit vectors of this process's rows and candidates.
            batch: of them.
        """
        before, item_CD, code_C, log_count_C = _over_processes(item_CD, batch)
        target_B = batch.target_B + before
        # Of s û · v̂ + b, which is twice the vectors' product (ctr/retrieval/towers.py).
        corrected_BC = torch.addmm(-log_count_C, user_BD * (2 / self.temperature), item_CD.t())
        row_B = torch.arange(len(target_B), device=code_C.device)
        hidden = _places(
            torch.cat([row_B, batch.had_row_K]),
            torch.cat([code_C[target_B], batch.had_code_U]),
            torch.cat([row_B, batch.had_place_K + len(row_B)]),
            code_C,
        )
        own_B, sum_B, largest_B = TargetAndOthers.apply(corrected_BC, target_B, hidden)
        own_B = own_B + log_count_C[target_B]
        loss_B = F.softplus(sum_B - own_B)
        return loss_B.sum() * batch.loss_scale, (largest_B < own_B.detach()).float()


class TargetAndOthers(torch.autograd.Function):
    """Of each row the target's logit, log Σ e^s of the candidates that are not hidden, and their highest s.

    `apply` takes logits (B, C), targets (B) and the places in the flat matrix that are hidden, and gives the
    three (B). As one operation: each by itself would read and write the matrix once more, and that is where a
    step's time goes.
    """

    @staticmethod
    def forward(
        ctx: Any, logit_BC: Tensor, target_B: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keeps the exponentials for `backward`."""
        share_BC = logit_BC.view(-1).index_fill(0, hidden, _HIDDEN).view_as(logit_BC)
        largest_B1 = share_BC.amax(dim=1, keepdim=True)
        share_BC.sub_(largest_B1).exp_()
        sum_B1 = share_BC.sum(dim=1, keepdim=True)
        ctx.save_for_backward(share_BC, sum_B1, target_B)
        own_B = logit_BC.gather(1, target_B.unsqueeze(1)).squeeze(1)
        largest_B = largest_B1.squeeze(1)
        ctx.mark_non_differentiable(largest_B)
        return own_B, sum_B1.log().squeeze(1) + largest_B, largest_B

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the logits (B, C)."""
        share_BC, sum_B1, target_B = ctx.saved_tensors
        own_B, others_B, _ = gradients
        gradient_BC = share_BC * (others_B.unsqueeze(1) / sum_B1)
        return gradient_BC.scatter_add_(1, target_B.unsqueeze(1), own_B.unsqueeze(1)), None, None


def _over_processes(item_CD: Tensor, batch: RetrievalBatch) -> tuple[int, Tensor, Tensor, Tensor]:
    """All processes' candidates, and which of them is the first of this one."""
    if world_size() == 1:
        return 0, item_CD, batch.code_C, batch.log_count_C
    vectors, counts = gather_sections([item_CD, batch.log_count_C.unsqueeze(1)])
    (codes,) = gather_sections([batch.code_C.unsqueeze(1)])
    before = sum(len(part) for part in vectors[: dist.get_rank()])
    return before, torch.cat(vectors), torch.cat(codes).squeeze(1), torch.cat(counts).squeeze(1).detach()


def _places(row_K: Tensor, code_U: Tensor, place_K: Tensor, code_C: Tensor) -> Tensor:
    """Where candidates are an item that their row may not have: places in the flat (B, C) matrix.

    Args:
        row_K: rows.
        code_U, place_K: items, and which of them each row may not have.
        code_C: the candidates' items.
    """
    sorted_C, order_C = code_C.sort()
    start_U = torch.searchsorted(sorted_C, code_U)
    found_U = torch.searchsorted(sorted_C, code_U, right=True) - start_U
    start_K, found_K = start_U[place_K], found_U[place_K]
    # The found candidates of each pair lie side by side in the sorted ones.
    pair = torch.repeat_interleave(found_K)
    within = torch.arange(len(pair), device=code_C.device) - (found_K.cumsum(0) - found_K)[pair]
    return row_K[pair] * len(code_C) + order_C[start_K[pair] + within]
