"""Counts the tokens that training sends through an encoder.

Training itself does not count them, so they are counted where every backbone comes by: at the module that
encodes the batches of a step. Passes without gradients (validation, the first pass of gradient caching, the
encoder that vectors are held to) are not training and are left out, and so are padding and missing pictures.

Shapes: V pictures, B products, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass
class TokenCount:
    """Tokens encoded with gradients, and the pairs of the same steps."""

    tokens: int = 0
    pairs: int = 0

    @property
    def per_pair(self) -> float:
        """Mean tokens of a pair: both sides, and the hard negatives that come with it."""
        return self.tokens / self.pairs


@contextmanager
def counted_tokens() -> Iterator[TokenCount]:
    """Count all contrastive training inside the block, in this process."""
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    from encoders.objective.encode_step import EncodeStep
    from encoders.objective.joint_objective import JointObjective
    from encoders.objective.objective import Objective

    count = TokenCount()

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, EncodeStep):
            if torch.is_grad_enabled():
                count.tokens += sum(tokens_of(module.encoder, batch) for batch in inputs[0])
        elif isinstance(module, Objective):
            count.pairs += len(inputs[0])
        elif isinstance(module, JointObjective):
            count.pairs += len(inputs[0].positives_PE)

    handle = register_module_forward_pre_hook(look)
    try:
        yield count
    finally:
        handle.remove()


def tokens_of(encoder: nn.Module, batch: Any) -> int:
    """Cells or patches of pictures and pieces of words in a batch of any backbone, padding left out."""
    from encoders.dual.inputs import DualBatch
    from encoders.features import FeatureBatch
    from encoders.mllm.batch import MllmBatch
    from encoders.raw_batches import RawBatch
    from encoders.towers import GRID

    if isinstance(batch, FeatureBatch):
        return int(batch.has_image_B.sum()) * batch.image_BGC.shape[1] + int(batch.text_mask_BT.sum())
    if isinstance(batch, RawBatch):
        pictures, views = batch.pixels_PVHW3.shape[:2]
        return pictures * views * GRID * GRID + int(batch.words.mask_BT.sum())
    if isinstance(batch, MllmBatch):
        return int(batch.mask_BT.sum())
    if isinstance(batch, DualBatch):
        return _patches(encoder, batch.pictures) + int(batch.mask_WT.sum())
    raise TypeError(f"a batch of {type(batch).__name__}, which no backbone makes")


def _patches(encoder: Any, pictures: dict[str, Any]) -> int:
    if not pictures:
        return 0
    if "pixel_attention_mask" in pictures:
        return int(pictures["pixel_attention_mask"].sum())
    rows, _, height, width = pictures["pixel_values"].shape
    side = int(encoder.towers.config.vision_config.patch_size)
    return int(rows * (height // side) * (width // side))
