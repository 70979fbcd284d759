"""Small multimodal language models and products for them."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from encoders.mllm.encoder import MllmEncoder
from encoders.mllm.options import MllmOptions
from encoders.mllm.tiny import Family
from encoders.products import Aspect, Product

# Steps this small gain nothing from a second thread, and lose much where tests run beside other work.
torch.set_num_threads(1)

FAMILIES: tuple[Family, ...] = ("qwen2_5_vl", "qwen3_vl")
_WORDS = [
    "red",
    "blue",
    "green",
    "mug",
    "lamp",
    "shirt",
    "cotton",
    "steel",
    "vintage",
    "modern",
    "large",
    "small",
    "kitchen",
    "garden",
]


def picture(seed: int, width: int = 60, height: int = 80) -> Image.Image:
    """Coloured blocks, others for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def picture_bytes(seed: int, width: int = 60, height: int = 80) -> bytes:
    """The same as a PNG file."""
    stream = io.BytesIO()
    picture(seed, width, height).save(stream, "PNG")
    return stream.getvalue()


def words(count: int, seed: int) -> str:
    """A text of so many words."""
    return " ".join(np.random.default_rng(seed).choice(_WORDS, count))


def product(seed: int, *, image: bool = True, text: bool = True, region: bool = False) -> Product:
    """A product with all aspects, or without some."""
    texts = (
        (Aspect.TITLE, words(4 + seed % 3, seed)),
        (Aspect.CATEGORY, words(2, seed + 100)),
        (Aspect.ATTRIBUTES, words(5, seed + 200)),
        (Aspect.DESCRIPTION, words(6, seed + 300)),
    )
    return Product(
        key=str(seed),
        image=picture_bytes(seed) if image else None,
        texts=texts if text else (),
        region=(0.1, 0.2, 0.8, 0.9) if region else None,
    )


def encoder_of(family: Family = "qwen2_5_vl", seed: int = 0, **options: Any) -> MllmEncoder:
    """A new tiny encoder whose attention and routing are far from uniform."""
    encoder = MllmEncoder.tiny(_texts(), MllmOptions(**{"dims": (32, 16), **options}), family, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if weight.ndim > 1 and "visual" not in name and "lora" not in name:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.05)
    return encoder


@cache
def _texts() -> tuple[str, ...]:
    return tuple(words(12, seed) for seed in range(60))
