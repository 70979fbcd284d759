"""What an image-editing model is asked (`edits.yaml`), with a product's title filled in."""

from __future__ import annotations

import string
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from encoders.products import Aspect, Product

_FILE = Path(__file__).with_name("edits.yaml")
# The text towers of most editing models read 77 tokens: the instruction must not fall off behind the title.
_TITLE_WORDS, _TITLE_CHARACTERS = 12, 80


@cache
def instructions() -> dict[str, tuple[str, ...]]:
    """Kind of change to its phrasings.

    Raises:
        ValueError: a phrasing has another slot than the title.
    """
    found = {kind: tuple(texts) for kind, texts in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items()}
    for text in (text for texts in found.values() for text in texts):
        if {name for _, name, _, _ in string.Formatter().parse(text)} - {None} != {"title"}:
            raise ValueError(f"{_FILE.name}: expected {{title}} as the only slot of {text!r}")
    return found


def instruction(kind: str, product: Product, rng: np.random.Generator) -> str:
    """One phrasing of a kind of change, drawn, for this product."""
    texts = instructions()[kind]
    return texts[int(rng.integers(len(texts)))].format(title=_subject(product))


def _subject(product: Product) -> str:
    title = next((text for aspect, text in product.texts if aspect is Aspect.TITLE), "")
    words = title.split()[:_TITLE_WORDS]
    while words and len(" ".join(words)) > _TITLE_CHARACTERS:
        words.pop()
    return " ".join(words) or "product"
