"""Guided experts in the text tower, which alone has tokens of the category and of the attributes.

Shapes: B products, W texts, T word pieces, R routed experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from torch import Tensor, nn

from encoders.guided_moe import GuidedMoE
from encoders.mllm.guided_layers import AspectExperts, Guide


class _FeedForward(nn.Module):
    """The dense part of a BERT layer, under the names that those of CLIP have."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.fc1 = layer.intermediate.dense
        self.activation_fn = layer.intermediate.intermediate_act_fn
        self.fc2 = layer.output.dense


def add_text_experts(text_model: Any, *, experts: int, experts_per_token: int, guided: bool) -> None:
    """Turn the dense feed-forward part of every layer of a text tower into guided experts, in place.

    The tower's forward then takes the keyword argument `guide`, the aspects of its tokens.
    """
    width = int(text_model.config.hidden_size)
    encoder = text_model.encoder
    layers: Iterable[Any] = encoder.layers if hasattr(encoder, "layers") else encoder.layer
    for layer in layers:
        bert = hasattr(layer, "intermediate")
        dense = _FeedForward(layer) if bert else layer.mlp
        moe = GuidedMoE.upcycle(
            dense, width=width, experts=experts, experts_per_token=experts_per_token, guided=guided
        )
        if bert:
            layer.intermediate, layer.output.dense = AspectExperts(moe), nn.Identity()
        else:
            layer.mlp = AspectExperts(moe)
        layer.__class__ = _guided(layer.__class__)


def spread_gates(experts: Sequence[GuidedMoE], owner_W: Tensor, products: int) -> None:
    """Turn the gates of texts into those of products: the tower sees only products that have words."""
    for moe in experts:
        assert moe.statistics is not None
        gate_WR = moe.statistics.gate_BR
        gate_BR = gate_WR.new_zeros(products, gate_WR.shape[1]).index_copy(0, owner_W, gate_WR)
        moe.statistics = replace(moe.statistics, gate_BR=gate_BR)


@cache
def _guided(layer_class: type[nn.Module]) -> type[nn.Module]:
    """`layer_class` with the keyword argument `guide`, handed to its experts right before they run, so that
    it is right also where gradient checkpointing runs a layer again after other batches."""

    def forward(self: Any, *args: Any, guide: Guide | None = None, **kwargs: Any) -> Any:
        for part in self.children():
            if isinstance(part, AspectExperts):
                part.guide = guide
        return layer_class.forward(self, *args, **kwargs)

    return type(layer_class.__name__, (layer_class,), {"forward": forward})
