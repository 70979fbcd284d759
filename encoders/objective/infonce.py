"""InfoNCE with a learnable temperature.

Shapes: B anchors, C candidates, E embedding width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Where the learnt temperature starts, that of CLIP.
TEMPERATURE = 0.07


class InfoNCE(nn.Module):
    """Logits of the loss of van den Oord et al. (https://arxiv.org/abs/1807.03748): cosine over temperature.

    The temperature is learnt, as in CLIP (https://arxiv.org/abs/2103.00020). Next to `CircleLoss`, which
    fixes its
    scale and stops where a pair is good enough, this one goes on sharpening: it suits millions of noisy
        pairs.
    """

    def __init__(self, temperature: float = TEMPERATURE) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, anchors_BE: Tensor, candidates_CE: Tensor, positive_B: Tensor) -> Tensor:
        """(B, C) logits of unit vectors; where the positives stand (`positive_B`) makes no difference."""
        return (anchors_BE * self.scale()) @ candidates_CE.T

    def scale(self) -> Tensor:
        """One over the temperature, kept between 1 and 100."""
        return self.log_scale.exp().clamp(1, 100)
