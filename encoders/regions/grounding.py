"""Core regions by visual grounding: a frozen multimodal language model is asked where the titled product is.

This is MOON's detector (https://arxiv.org/abs/2508.11999). An answer that names no usable box stands for the
whole picture, and why is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from encoders.products import Product
from encoders.regions.boxes import Found, found_box, whole
from encoders.regions.grounding_text import parse_answer, question
from moonrec.images import BrokenImage, decode_image

_LARGEST_SIDE = 1024
_ANSWER_TOKENS = 64
# Beyond this ratio of the sides, image processors of the Qwen family refuse.
_NARROWEST = 100
_MARGIN = 0.02


class GroundingModel(Protocol):
    """What grounding needs of a model; an `MllmEncoder` has it."""

    @property
    def box_scale(self) -> str:
        """The unit in which the model names boxes, `pixels` of the seen size or `thousand`."""

    def seen_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height to which the model shrinks a picture of this size."""

    def generate(
        self, images: Sequence[Image.Image | None], prompts: Sequence[str], max_new_tokens: int = 64
    ) -> list[str]:
        """Answers to prompts, each about one picture."""

    def fingerprint(self) -> str:
        """A digest of the model's configuration and weights."""


class GroundingDetector:
    """Finds the core region of pictures by asking `model`, which stays as it is."""

    uses_title = True

    def __init__(self, model: GroundingModel) -> None:
        self._model = model

    def fingerprint(self) -> str:
        """A digest of everything that the boxes depend on: the model and how it is asked."""
        settings = (1, question("title"), _LARGEST_SIDE, _ANSWER_TOKENS, _NARROWEST, _MARGIN)
        return hashlib.sha256(f"grounding {self._model.fingerprint()} {settings}".encode()).hexdigest()

    def prepare(self, product: Product) -> Image.Image:
        """The product's picture, at most 1,024 pixels a side.

        Raises:
            BrokenImage: there is no picture, or it does not decode.
        """
        if product.image is None:
            raise BrokenImage("no picture")
        picture = decode_image(product.image, draft_size=_LARGEST_SIDE)
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
        return picture

    def detect(self, prepared: Sequence[Image.Image], titles: Sequence[str]) -> list[Found]:
        """The core regions of prepared pictures that show the products with these titles."""
        asked = [row for row, picture in enumerate(prepared) if _proportion(picture) <= _NARROWEST]
        answers = self._model.generate(
            [prepared[row] for row in asked], [question(titles[row]) for row in asked], _ANSWER_TOKENS
        )
        found = [whole("too narrow")] * len(prepared)
        for row, answer in zip(asked, answers, strict=True):
            size = self._model.seen_size(*prepared[row].size)
            box, reason = parse_answer(answer, self._model.box_scale, *size)
            found[row] = whole(reason) if box is None else found_box(box, "grounding", _MARGIN)
        return found


def _proportion(picture: Image.Image) -> float:
    return max(picture.size) / min(picture.size)
