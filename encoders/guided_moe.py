"""MOON's guided mixture of experts: some tokens are told their expert, the others are routed (MOON,
https://arxiv.org/abs/2508.11999, the section on the guided MoE).

A feed-forward part becomes X experts. Tokens of the category all go to expert 0 and tokens of the attributes
to expert 1, so that these two aspects, which a plain language model treats like any other words, get weights
of their own. Every other token is routed to the best of the remaining experts. The paper leaves their number,
the number per token and the start open. Ours: each expert starts as a copy of the dense part, so that the
first output is that of the dense model; a routed token takes the k best experts, with a softmax over these k
as gates (they sum to 1, as the copies need); the router has no bias and starts small; a forced expert has
gate 1. Unguided, no token is told anything and all X experts are routed to, as in MOON2.0
(https://arxiv.org/abs/2511.12449).

Shapes: B products, T tokens, D width, N = B·T tokens, X experts, R routed experts (X - 2 guided, X unguided),
K experts of a token, A aspects.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoders.grouped_experts import GroupedExperts, copy_experts
from encoders.products import Aspect

CATEGORY_EXPERT = 0
ATTRIBUTE_EXPERT = 1
FORCED_EXPERTS = 2

# Variance of the router's weights times the width: the small start of the Switch Transformer (section 2.4,
# https://arxiv.org/abs/2101.03961). The gates start nearly even, and the experts see different tokens.
_ROUTER_SCALE = 0.1


@dataclass(frozen=True)
class RouterStatistics:
    """What one forward pass of one layer sent where; padding is not counted.

    Attributes:
        count_X: tokens sent to each *routed* expert, (R,) float32, without gradient.
        probability_X: the router's probabilities summed over the routed tokens, (R,), with gradient.
        tokens: number of routed tokens, a float32 scalar; `count_X` sums to k times as much.
        aspect_counts_AX: tokens of each aspect sent to each of all experts, (A, X) int64.
        gate_BR: per product the mean over its routed tokens of their gates on each routed expert, (B, R), at
            least float32, with gradient. Rows sum to 1; the row of a product without routed tokens is 0.
    """

    count_X: Tensor
    probability_X: Tensor
    tokens: Tensor
    aspect_counts_AX: Tensor
    gate_BR: Tensor


def experts_fit(experts: int, experts_per_token: int, *, guided: bool) -> bool:
    """Whether enough of X experts are routed to that a token can have so many of them."""
    return 1 <= experts_per_token <= _routed(experts, guided)


class GuidedMoE(nn.Module):
    """A mixture of experts in the place of a feed-forward part; make one with `upcycle`.

    `forced` is how many experts are not routed to: the first two, or none in an unguided mixture.
    `statistics` are those of the last forward pass, None before the first. With one expert per token the gate
    is 1; the router then gets the gradient of the logarithm of its probability (ours), since the gradient of
    a constant would teach it nothing but balance.

    Activation checkpointing has to be the non-reentrant one: the other runs the forward pass without a graph,
    and `statistics` would have no gradient.
    """

    def __init__(
        self, *, experts: GroupedExperts, router_RD: Tensor, experts_per_token: int, guided: bool = True
    ) -> None:
        super().__init__()
        self.forced = FORCED_EXPERTS if guided else 0
        self.experts = experts
        # A bare parameter: its product runs in float32 whatever the model's precision is.
        self.router = nn.Parameter(router_RD)
        self.experts_per_token = experts_per_token
        self.statistics: RouterStatistics | None = None

    @classmethod
    def upcycle(
        cls, dense: nn.Module, *, width: int, experts: int, experts_per_token: int = 2, guided: bool = True
    ) -> GuidedMoE:
        """`experts` copies of `dense`: the category's, the attributes' and `experts - 2` routed ones.

        The router's start is drawn from torch's CPU generator, equal on every device.

        Args:
            dense: a feed-forward part that `encoders.grouped_experts.copy_experts` knows.
            width: D, what `dense` takes and gives.
            experts: X; guided ones are at least 3.
            experts_per_token: k, how many experts a routed token takes; at most R.
            guided: false routes every token, to any of the experts.

        Raises:
            TypeError: `dense` is of an unknown form.
            ValueError: the numbers do not fit each other.
        """
        routed = _routed(experts, guided)
        if not experts_fit(experts, experts_per_token, guided=guided):
            raise ValueError(
                f"{experts_per_token} experts per token, but {routed} of {experts} experts are routed to"
            )
        weight = next(dense.parameters())
        router_RD = torch.randn(routed, width) * (_ROUTER_SCALE / width) ** 0.5
        return cls(
            experts=copy_experts(dense, experts),
            router_RD=router_RD.to(weight),
            experts_per_token=experts_per_token,
            guided=guided,
        )

    def forward(self, x_BTD: Tensor, aspect_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Tokens to tokens, in the precision that a dense part would give.

        Args:
            x_BTD: tokens, (B, T, D) or (N, D).
            aspect_BT: the `Aspect` of each token, int64, (B, T) or (N,).
            mask_BT: false marks padding: it is not computed, its output is 0. None: there is none.
        """
        x_ND = x_BTD.flatten(0, -2)
        aspect_N = aspect_BT.flatten()
        seen_N = torch.ones_like(aspect_N, dtype=torch.bool) if mask_BT is None else mask_BT.flatten()
        routed_N = seen_N
        if self.forced:
            routed_N = seen_N & (aspect_N != Aspect.CATEGORY) & (aspect_N != Aspect.ATTRIBUTES)
        logit_NR = self._logits(x_ND)
        gate_NK, expert_NK = self._choose(logit_NR, aspect_N, seen_N, routed_N)
        aspect_counts_AX = self._count(aspect_N, expert_NK)
        gate_BR = self._gates_of_products(gate_NK, expert_NK, routed_N, len(x_BTD))
        statistics = self._statistics(logit_NR, routed_N, aspect_counts_AX, gate_BR)
        # Activation checkpointing repeats this pass inside the backward pass. What that leaves would keep its
        # graph, and with it the memory that is to be saved, until the next step.
        if torch._C._current_graph_task_id() == -1:
            self.statistics = statistics
        y_ND = self.experts(_in_product_precision(x_ND), expert_NK, gate_NK, aspect_counts_AX.sum(0))
        return y_ND.view(x_BTD.shape)

    def statistics_of_nothing(self, products: int) -> RouterStatistics:
        """What a forward pass of so many products leaves, none of which has a token here."""
        routed, precision = len(self.router), torch.promote_types(self.router.dtype, torch.float32)
        zeros = functools.partial(torch.zeros, device=self.router.device)
        return RouterStatistics(
            count_X=zeros(routed),
            probability_X=zeros(routed, dtype=precision),
            tokens=zeros(()),
            aspect_counts_AX=zeros(len(Aspect), self.forced + routed, dtype=torch.int64),
            gate_BR=zeros(products, routed, dtype=precision),
        )

    def _logits(self, x_ND: Tensor) -> Tensor:
        precision = torch.promote_types(x_ND.dtype, torch.float32)
        with torch.autocast(x_ND.device.type, enabled=False):
            return functional.linear(x_ND.to(precision), self.router.to(precision))

    def _choose(
        self, logit_NR: Tensor, aspect_N: Tensor, seen_N: Tensor, routed_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gates and experts of every token, (N, K); the expert X (gate 0) stands for none."""
        none = len(self.router) + self.forced
        best_NK, choice_NK = logit_NR.topk(self.experts_per_token, dim=1)
        if self.experts_per_token == 1:
            log_NK = best_NK - logit_NR.logsumexp(1, keepdim=True)
            gate_NK = (log_NK - log_NK.detach()).exp()
        else:
            gate_NK = best_NK.softmax(1)
        first_K = torch.arange(self.experts_per_token, device=aspect_N.device) == 0
        forced_N = torch.where(aspect_N == Aspect.CATEGORY, CATEGORY_EXPERT, ATTRIBUTE_EXPERT)
        takes_forced_NK = (seen_N & ~routed_N)[:, None] & first_K
        expert_NK = torch.where(takes_forced_NK, forced_N[:, None], none)
        return (
            torch.where(routed_N[:, None], gate_NK, takes_forced_NK.to(gate_NK.dtype)),
            torch.where(routed_N[:, None], choice_NK + self.forced, expert_NK),
        )

    def _count(self, aspect_N: Tensor, expert_NK: Tensor) -> Tensor:
        """How many tokens of each aspect go to each expert, (A, X). A scattered addition, not `bincount`,
        for which the GPU would have to be waited for; exact, since it adds whole numbers."""
        experts = len(self.router) + self.forced
        cell_NK = expert_NK * len(Aspect) + aspect_N[:, None]
        cell_NK = torch.where(expert_NK < experts, cell_NK, experts * len(Aspect))
        count = cell_NK.new_zeros(experts * len(Aspect) + 1)
        count.scatter_add_(0, cell_NK.flatten(), torch.ones_like(cell_NK).flatten())
        return count[:-1].view(experts, len(Aspect)).T

    def _gates_of_products(
        self, gate_NK: Tensor, expert_NK: Tensor, routed_N: Tensor, products: int
    ) -> Tensor:
        """The mean gates of each product's routed tokens, (B, R)."""
        routed, tokens = len(self.router), len(routed_N) // max(products, 1)
        # The forced experts' columns and the last one, of no expert, are cut off again. Nothing is added up
        # in the scattering: the experts of a token differ, and those of "no expert" all have gate 0.
        gate_NX = gate_NK.new_zeros(len(gate_NK), self.forced + routed + 1).scatter(1, expert_NK, gate_NK)
        gate_BR = gate_NX[:, self.forced : -1].reshape(products, tokens, routed).sum(1)
        return gate_BR / routed_N.view(products, tokens).sum(1, keepdim=True).clamp_min(1)

    def _statistics(
        self, logit_NR: Tensor, routed_N: Tensor, aspect_counts_AX: Tensor, gate_BR: Tensor
    ) -> RouterStatistics:
        with torch.autocast(logit_NR.device.type, enabled=False):
            probability_R = routed_N.to(logit_NR.dtype) @ logit_NR.softmax(1)
        return RouterStatistics(
            count_X=aspect_counts_AX[:, self.forced :].sum(0).float(),
            probability_X=probability_R,
            tokens=routed_N.sum().float(),
            aspect_counts_AX=aspect_counts_AX,
            gate_BR=gate_BR,
        )

    def __getstate__(self) -> dict[str, object]:
        """Copies go without the statistics: a tensor inside a graph cannot be copied."""
        return {**self.__dict__, "statistics": None}


def balance_loss(
    statistics: Sequence[RouterStatistics], totals: Sequence[tuple[Tensor, Tensor]] | None = None
) -> Tensor:
    """How unevenly the routed experts are used, averaged over layers: R · Σ f·P with f the share of choices
    that fell on an expert and P its mean probability (Switch Transformer, section 2.2,
    https://arxiv.org/abs/2101.03961; with several choices per token f is divided by their number, so that
    even use costs 1 whatever k is). Its gradient flows through P only.

    Args:
        statistics: one per layer, of one forward pass.
        totals: per layer (`count_X`, `tokens`) summed over the whole batch, when `statistics` are those of
            one of its chunks: the losses of the chunks then sum to the loss of the whole batch.

    Raises:
        ValueError: no layer is given, or not one total per layer.
    """
    if not statistics:
        raise ValueError("no layer with experts to balance")
    whole = [(one.count_X, one.tokens) for one in statistics] if totals is None else totals
    losses = [
        len(count_X) * (count_X * one.probability_X).sum() / (count_X.sum() * tokens).clamp_min(1)
        for one, (count_X, tokens) in zip(statistics, whole, strict=True)
    ]
    return torch.stack(losses).mean()


def _routed(experts: int, guided: bool) -> int:
    return experts - FORCED_EXPERTS if guided else experts


def _in_product_precision(x_ND: Tensor) -> Tensor:
    """Under autocast what its matrix products take, so that rows are moved in that precision, not a wider."""
    if x_ND.dtype == torch.float64 or not torch.is_autocast_enabled(x_ND.device.type):
        return x_ND
    return x_ND.to(torch.get_autocast_dtype(x_ND.device.type))
