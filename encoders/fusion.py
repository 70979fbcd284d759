"""A bidirectional transformer over the tokens of both modalities, whose feed-forward parts can be exchanged.

Each residual branch ends in a zero matrix, so that at step 0 the trunk passes its tokens through and an
untrained encoder is exactly as good as its pretrained towers; training then adds what fusion is worth.

Shapes: B products, T tokens of both modalities, D trunk width, H heads, K width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encoders.guided_moe import GuidedMoE


class SelfAttention(nn.Module):
    """Multi-head self-attention over all tokens of a product, in both directions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the width {width} is not a multiple of the {heads} heads")
        self._heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Tokens (B, T, D) to tokens; padding (`mask_BT` false) is never attended to."""
        batch, tokens, width = x_BTD.shape
        qkv = self.qkv(x_BTD).view(batch, tokens, 3, self._heads, width // self._heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = _attend(q, k, v, mask_BT[:, None, None, :])
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


def _attend(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, mask_B11T: Tensor) -> Tensor:
    """Scaled dot-product attention; on a CPU written out, since torch's fused kernel is made for long inputs
    and takes 5 times longer forward and backward on thirty tokens (our measurement, two cores, bf16)."""
    if q_BHTK.is_cuda:
        return nn.functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, attn_mask=mask_B11T)
    score_BHTT = (q_BHTK * q_BHTK.shape[-1] ** -0.5) @ k_BHTK.transpose(-1, -2)
    weight_BHTT = score_BHTT.float().masked_fill(~mask_B11T, -torch.inf).softmax(-1)
    return weight_BHTT.to(v_BHTK.dtype) @ v_BHTK


class FeedForward(nn.Module):
    """The dense feed-forward part. A mixture of experts takes its place with the same call: it is given the
    aspect of every token and the mask, which a dense one does not need."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x_BTD: Tensor, aspect_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Tokens (B, T, D), their aspects (B, T) and mask to tokens."""
        del aspect_BT, mask_BT
        return self.down(nn.functional.gelu(self.up(x_BTD)))


class FusionBlock(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, width: int, *, attention: nn.Module, feed_forward: nn.Module) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = attention
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = feed_forward

    def forward(self, x_BTD: Tensor, mask_BT: Tensor, aspect_BT: Tensor) -> Tensor:
        """Tokens (B, T, D), their mask and aspects (B, T) to tokens."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), mask_BT)
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD), aspect_BT, mask_BT)


class FusionTransformer(nn.Module):
    """A stack of `FusionBlock`s.

    With `experts`, each feed-forward part becomes a `GuidedMoE` whose experts start as copies of it.
    """

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        heads: int,
        ratio: int,
        experts: int = 0,
        experts_per_token: int = 2,
        guided: bool = True,
    ) -> None:
        super().__init__()
        self._width = width
        self.blocks = nn.ModuleList(
            FusionBlock(width, attention=SelfAttention(width, heads), feed_forward=FeedForward(width, ratio))
            for _ in range(layers)
        )
        if experts:
            self.upcycle(experts, experts_per_token, guided=guided)

    def upcycle(self, experts: int, experts_per_token: int, *, guided: bool = True) -> None:
        """Turn every dense feed-forward part into a mixture of experts that computes the same."""
        for block in self.blocks:
            dense = block.get_submodule("feed_forward")
            block.feed_forward = GuidedMoE.upcycle(
                dense,
                width=self._width,
                experts=experts,
                experts_per_token=experts_per_token,
                guided=guided,
            )

    def forward(self, x_BTD: Tensor, mask_BT: Tensor, aspect_BT: Tensor) -> Tensor:
        """Tokens (B, T, D) of both modalities to fused tokens."""
        # A product with nothing to encode would attend to nothing and yield NaN; its vector is not used.
        mask_BT = mask_BT | ~mask_BT.any(1, keepdim=True)
        for block in self.blocks:
            x_BTD = block(x_BTD, mask_BT, aspect_BT)
        return x_BTD


def masked_mean(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the tokens where `mask_BT` is true: (B, T, D) to (B, D); zero where there is none."""
    weight_BT1 = mask_BT.to(x_BTD.dtype).unsqueeze(-1)
    return (x_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp_min(1)


def aspect_of_tokens(image_tokens: int, aspect_BT: Tensor, image_aspect: int) -> Tensor:
    """Aspects of the joint sequence: image tokens first, then the text tokens' own."""
    image_BG = aspect_BT.new_full((len(aspect_BT), image_tokens), image_aspect)
    return torch.cat([image_BG, aspect_BT], 1)
