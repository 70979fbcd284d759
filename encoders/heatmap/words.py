"""The words of a title, and products that lack one of them."""

from __future__ import annotations

import re
from dataclasses import replace

from encoders.products import Aspect, Product

MAX_WORDS = 40
# Chinese, Japanese and Korean are written without spaces; each character counts as a word.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def title_of(product: Product) -> str:
    """The title, empty where there is none."""
    return next((text for aspect, text in product.texts if aspect is Aspect.TITLE), "")


def title_words(product: Product) -> list[str]:
    """The first 40 words of the title, in order."""
    return [match.group() for match in _matches(product)]


def without_words(product: Product) -> list[Product]:
    """The product once for each of `title_words`, without that word; a title that becomes empty is gone."""
    title = title_of(product)
    return [_titled(product, title[: match.start()] + title[match.end() :]) for match in _matches(product)]


def _matches(product: Product) -> list[re.Match[str]]:
    return list(_WORD.finditer(title_of(product)))[:MAX_WORDS]


def _titled(product: Product, title: str) -> Product:
    words = " ".join(title.split())
    texts = [(aspect, words if aspect is Aspect.TITLE else text) for aspect, text in product.texts]
    return replace(product, texts=tuple((aspect, text) for aspect, text in texts if text))
