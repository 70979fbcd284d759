"""Two things that a Qwen-VL language layer does not know: what its tokens tell about, and which way to look.

Guided experts need the aspect of every token, and attention goes in both directions for representation and
backwards only for generation (MOON, https://arxiv.org/abs/2508.11999). Both travel as one keyword argument
through the model's own forward to its layers, and are set inside the layer right before it runs: so they are
right also where gradient checkpointing runs a layer again after other batches have passed through it.

Shapes: B products, T tokens, D trunk width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encoders.guided_moe import GuidedMoE
from encoders.products import Aspect


@dataclass(frozen=True)
class Guide:
    """What is known about the tokens of a batch; padding (`mask_BT` false) goes to no expert."""

    aspect_BT: Tensor
    mask_BT: Tensor
    bidirectional: bool


class AspectExperts(nn.Module):
    """`GuidedMoE` behind the call of a dense feed-forward part; without a guide all tokens are titles'."""

    def __init__(self, experts: GuidedMoE) -> None:
        super().__init__()
        self.experts = experts
        self.guide: Guide | None = None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Tokens (B, T, D) to tokens."""
        if self.guide is not None:
            return self._computed(x_BTD, self.guide.aspect_BT, self.guide.mask_BT)
        aspect_BT = torch.full(x_BTD.shape[:2], int(Aspect.TITLE), device=x_BTD.device)
        return self._computed(x_BTD, aspect_BT, None)

    def _computed(self, x_BTD: Tensor, aspect_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
        if torch.is_autocast_enabled(x_BTD.device.type):
            return self.experts(x_BTD, aspect_BT, mask_BT)
        # Beside adapters, experts are float32 in a model that may be bf16.
        precision = next(self.experts.experts.parameters()).dtype
        return self.experts(x_BTD.to(precision), aspect_BT, mask_BT).to(x_BTD.dtype)


def guide_layers(language_model: Any) -> None:
    """Make every decoder layer take the keyword argument `guide`, in place."""
    layers = list(language_model.layers)
    guided = _guided(type(layers[0]))
    for layer in layers:
        layer.__class__ = guided


def add_experts(
    language_model: Any, width: int, *, experts: int, experts_per_token: int, every: int, guided: bool
) -> None:
    """Turn the dense feed-forward part of every `every`-th layer, from the last backwards, into experts."""
    for layer in list(language_model.layers)[::-1][::every]:
        weight = next(layer.mlp.parameters())
        moe = GuidedMoE.upcycle(
            layer.mlp, width=width, experts=experts, experts_per_token=experts_per_token, guided=guided
        )
        layer.mlp = AspectExperts(moe.to(weight.device))


@contextmanager
def attention_direction(config: Any, *, bidirectional: bool) -> Iterator[None]:
    """Have transformers make its attention masks of both directions, or of one, within the block."""
    before = getattr(config, "is_causal", True)
    config.is_causal = not bidirectional
    try:
        yield
    finally:
        config.is_causal = before


def _guided(layer_class: type[Any]) -> type[Any]:
    """`layer_class` with the keyword argument `guide`.

    A subclass, and not a wrapper of `forward`: transformers checkpoints the outermost `forward` of a class,
    so that what is set here is set again when the layer is recomputed. It keeps its parent's name, by which
    FSDP finds the layers to shard.
    """

    def forward(self: Any, *args: Any, guide: Guide | None = None, **kwargs: Any) -> Any:
        self.self_attn.is_causal = guide is None or not guide.bidirectional
        if isinstance(self.mlp, AspectExperts):
            self.mlp.guide = guide
        return layer_class.forward(self, *args, **kwargs)

    return type(layer_class.__name__, (layer_class,), {"forward": forward})
