"""Further pictures of a product by an image-editing model, as in MOON2.0 (https://arxiv.org/abs/2511.12449).

The model is asked for another background, viewpoint, detail or light; what it must not change is said to it,
but it may do so all the same. Judge its pictures before they are used (`encoders.augment.agreement`).
"""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from encoders.augment.edit_instructions import instruction, instructions
from encoders.augment.editing_pipeline import load_editing_pipeline, pipeline_fingerprint
from encoders.augment.image_variants import Variant, drawn_kinds, is_usable, scaled_down
from encoders.augment.provenance import model_name
from encoders.products import Product
from moonrec.images import BrokenImage, decode_image

# Of InstructPix2Pix; larger models bring the picture to their own size first.
_SIZE = 512


class EditedImages:
    """Asks a pipeline of diffusers to edit the product's picture.

    Args:
        pipeline: takes a picture and an instruction, gives a picture; see `load_editing_pipeline`.
        model: its name, told as the source of what it makes.
        steps: denoising steps; None for the pipeline's own number.
    """

    def __init__(self, pipeline: Any, model: str, steps: int | None = None) -> None:
        self.name = f"edited:{model}"
        self._pipeline = pipeline
        self._options = {} if steps is None else {"num_inference_steps": steps}

    @classmethod
    def from_checkpoint(cls, name_or_path: str, device: torch.device, steps: int | None = None) -> Self:
        """A pipeline from a folder or the hub.

        Raises:
            UserError: diffusers is not installed, or this is no image-editing pipeline of it.
        """
        return cls(load_editing_pipeline(name_or_path, device), model_name(name_or_path), steps)

    def fingerprint(self) -> str:
        """A digest of the pipeline with all its weights, and of what it is asked."""
        asked = (self.name, _SIZE, self._options, instructions())
        return hashlib.sha256(f"{pipeline_fingerprint(self._pipeline)} {asked}".encode()).hexdigest()

    def variants(self, product: Product, count: int, rng: np.random.Generator) -> list[Variant]:
        """See `ImageAugmenter`; what the pipeline's own safety checker rejects is left out."""
        picture = _picture(product)
        if picture is None:
            return []
        kinds = islice(drawn_kinds(tuple(instructions()), rng), count)
        edited = [self._edited(picture, instruction(kind, product, rng), rng) for kind in kinds]
        return [Variant(image, self.name) for image in edited if image is not None]

    @torch.inference_mode()
    def _edited(self, picture: Image.Image, words: str, rng: np.random.Generator) -> Image.Image | None:
        generator = torch.Generator("cpu").manual_seed(int(rng.integers(2**63)))
        output = self._pipeline(prompt=words, image=picture, generator=generator, **self._options)
        if any(getattr(output, "nsfw_content_detected", None) or ()):
            return None
        # Models round sides to multiples of their own: the aspect is brought back.
        return output.images[0].convert("RGB").resize(picture.size, Image.Resampling.LANCZOS)


def _picture(product: Product) -> Image.Image | None:
    if product.image is None:
        return None
    try:
        picture = scaled_down(decode_image(product.image, draft_size=_SIZE), _SIZE)
    except BrokenImage:
        return None
    return picture if is_usable(picture) else None
