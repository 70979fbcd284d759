"""The words of visual grounding: the question put to a multimodal language model, and the box in its answer.

Qwen2.5-VL (https://arxiv.org/abs/2502.13923) answers in pixels of the picture as it saw it, Qwen3-VL in
thousandths of the picture's sides; both as JSON, `{"bbox_2d": [x1, y1, x2, y2], "label": "..."}`, alone or in
a list, often in a fence. Older models write bare numbers. Whatever comes, parsing does not raise.
"""

from __future__ import annotations

import math
import re

from encoders.regions.boxes import Box, is_box

# The title as a shop writes it may be a paragraph, or hold line breaks; neither helps to find the product.
_TITLE_CHARACTERS = 200
# Models answer a little beyond the edge now and then; further out, the numbers mean something else.
_SLACK = 0.02
_TINY = 0.01

_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{0,9})?)\s*"
_FOUR = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}(?:,|\)\s*,\s*\(){_NUMBER},{_NUMBER}[\])]", re.ASCII)
_KEYED = re.compile(r"bbox(?:_2d)?[\"']?\s*:\s*", re.ASCII)


def question(title: str) -> str:
    """The prompt that asks for the box of the product with this title, or of the main product without one."""
    words = " ".join(title.split())[:_TITLE_CHARACTERS]
    what = f'the product "{words}"' if words else "the main product"
    return (
        f"Locate {what} in this picture. Leave out the background, people and other things. "
        'Answer with one bounding box as JSON: {"bbox_2d": [x1, y1, x2, y2], "label": "product"}'
    )


def parse_answer(answer: str, scale: str, width: int, height: int) -> tuple[Box | None, str]:
    """The first box of an answer as shares of the picture, or None and why there is none.

    Args:
        answer: what the model wrote.
        scale: the unit of its numbers, `pixels` or `thousand`.
        width: of the picture that the model saw, in pixels.
        height: the same.

    Raises:
        ValueError: another scale.
    """
    if scale not in ("pixels", "thousand"):
        raise ValueError(f"boxes in {scale!r}")
    if not answer.strip():
        return None, "empty answer"
    # A label may hold numbers in brackets; what follows the key is the box.
    keyed = _KEYED.search(answer)
    found = _FOUR.match(answer, keyed.end()) if keyed else _FOUR.search(answer)
    if found is None:
        return None, "malformed answer"
    full = (1000.0, 1000.0) if scale == "thousand" else (float(width), float(height))
    shares = [float(number) / full[place % 2] for place, number in enumerate(found.groups())]
    if not all(-_SLACK <= share <= 1 + _SLACK for share in shares):
        return None, "box outside the picture"
    x0, y0, x1, y1 = (min(1.0, max(0.0, share)) for share in shares)
    if not is_box((x0, y0, x1, y1)):
        return None, "box without an area"
    if math.sqrt((x1 - x0) * (y1 - y0)) < _TINY:
        return None, "tiny box"
    return (x0, y0, x1, y1), ""
