"""A small encoder with guided experts and dropout, in double precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encoders.fusion import FeedForward
from encoders.guided_moe import GuidedMoE
from encoders.products import Aspect

WIDTH, TOKENS = 8, 5


@dataclass(frozen=True)
class ToyBatch:
    """Products as tokens; each has tokens of every aspect."""

    x_BTD: Tensor

    def __len__(self) -> int:
        return len(self.x_BTD)

    def to(self, device: torch.device | str) -> ToyBatch:
        return ToyBatch(self.x_BTD.to(device))

    def is_empty_B(self) -> Tensor:
        return torch.zeros(len(self), dtype=torch.bool)


class ToyEncoder(nn.Module):
    """Tokens through experts to unit vectors."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter = nn.Linear(WIDTH, WIDTH)
        dense = FeedForward(WIDTH, 2)
        nn.init.normal_(dense.down.weight)
        self.experts = nn.ModuleList(
            GuidedMoE.upcycle(dense, width=WIDTH, experts=5, experts_per_token=2) for _ in range(2)
        )
        self.dropout = nn.Dropout(dropout)
        self.double()

    def forward(self, batch: ToyBatch) -> Tensor:
        x_BTD = self.enter(batch.x_BTD)
        aspect_BT = torch.arange(TOKENS).remainder(len(Aspect)).expand(len(batch), -1)
        for layer in self.experts:
            x_BTD = x_BTD + self.dropout(layer(x_BTD, aspect_BT))
        return nn.functional.normalize(x_BTD.mean(1), dim=1)

    def guided_experts(self) -> list[GuidedMoE]:
        return [module for module in self.modules() if isinstance(module, GuidedMoE)]


def toy_products(count: int, seed: int) -> ToyBatch:
    generator = torch.Generator().manual_seed(seed)
    return ToyBatch(torch.randn(count, TOKENS, WIDTH, generator=generator, dtype=torch.float64))


def pieces(batch: ToyBatch, size: int) -> list[list[ToyBatch]]:
    """Chunks of at most `size` products."""
    return [[ToyBatch(x_BTD)] for x_BTD in batch.x_BTD.split(size)]
