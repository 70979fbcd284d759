"""Cross-entropy of each anchor's positive among its candidates, in memory that does not grow with the batch.

Shapes: P anchors, B anchors of a block, C candidates, E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# (anchors_BE, candidates_CE, positive_B) -> logits (B, C); the result is overwritten.
Logits = Callable[[Tensor, Tensor, Tensor], Tensor]
# Logits of a block: 16 MB in float32, which the C library hands out again instead of mapping fresh pages.
# Ours.
_BLOCK_CELLS = 4 << 20


def contrast(
    logits: Logits, anchors_PE: Tensor, candidates_CE: Tensor, excluded_PC: Tensor, positive_P: Tensor
) -> Tensor:
    """The loss of each anchor (P,).

    Beyond a block of anchors the logits are computed again in the backward pass instead of being kept.

    Args:
        logits: `InfoNCE`, `CircleLoss`.
        anchors_PE, candidates_CE: unit vectors.
        excluded_PC: bool; candidates that are no negatives of an anchor.
        positive_P: column of each anchor's positive, which counts whatever `excluded_PC` says.
    """
    excluded_PC = excluded_PC.scatter(1, positive_P[:, None], False)
    rows = max(1, _BLOCK_CELLS // max(1, len(candidates_CE)))
    if len(anchors_PE) <= rows:
        return _block(logits, anchors_PE, candidates_CE, excluded_PC, positive_P)
    blocks = zip(anchors_PE.split(rows), excluded_PC.split(rows), positive_P.split(rows), strict=True)
    losses = [
        checkpoint(
            _block, logits, anchors_BE, candidates_CE, excluded_BC, positive_B,
            use_reentrant=False, preserve_rng_state=False,
        )
        for anchors_BE, excluded_BC, positive_B in blocks
    ]  # fmt: skip
    return torch.cat(losses)


def _block(
    logits: Logits, anchors_BE: Tensor, candidates_CE: Tensor, excluded_BC: Tensor, positive_B: Tensor
) -> Tensor:
    logits_BC = logits(anchors_BE, candidates_CE, positive_B).masked_fill_(excluded_BC, -torch.inf)
    return functional.cross_entropy(logits_BC, positive_B, reduction="none")
