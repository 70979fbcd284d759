"""An encoder whose pictures and words are aligned by construction: both become a colour."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from encoders.encoder import Encoder, Preparer
from encoders.products import Product, View
from encoders.raw_products import RawPreparer, shown
from moonrec.images import decode_image

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "yellow": (200, 200, 0)}


def plain_picture(colour: str) -> bytes:
    """A PNG of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), COLOURS[colour]).save(stream, "PNG")
    return stream.getvalue()


@dataclass(frozen=True)
class ColourConfig:
    backbone: str = "colours"
    dims: tuple[int, ...] = (3,)
    dim: int = 3
    regions: bool = False
    experts: int = 0


@dataclass
class ColourBatch:
    """Mean colours (B, 3) of pictures, or the colours that titles name; zero where there is none."""

    colour_B3: Tensor

    def __len__(self) -> int:
        return len(self.colour_B3)

    def to(self, device: torch.device | str) -> ColourBatch:
        return ColourBatch(self.colour_B3.to(device))

    def is_empty_B(self) -> Tensor:
        return ~self.colour_B3.any(1)


class ColourEncoder(Encoder):
    """Vectors are colours at unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.config = ColourConfig()

    def forward(self, batch: ColourBatch) -> Tensor:
        return nn.functional.normalize(batch.colour_B3, dim=1)

    def preparer(self, cache: Path | None, device: torch.device) -> Preparer:
        return RawPreparer(_collate)

    def calibrate(self, table: Any, rows: np.ndarray | None = None, seed: int = 0) -> None:
        """Nothing is to be fitted."""

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return []

    def save_pretrained(self, folder: str | Path) -> None:
        """Nothing is to be kept."""

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        return cls()


def _collate(products: list[Product], view: View) -> ColourBatch:
    return ColourBatch(torch.tensor([_colour(shown(product, view)) for product in products]))


def _colour(product: Product) -> list[float]:
    if product.image is not None:
        return [float(value) for value in np.asarray(decode_image(product.image)).mean((0, 1))]
    words = " ".join(text for _, text in product.texts).split()
    return [float(value) for value in next((COLOURS[word] for word in words if word in COLOURS), (0, 0, 0))]
