"""Enriched titles by a multimodal language model that sees title, other fields, entities and picture.

This is MOON2.0's way (https://arxiv.org/abs/2511.12449). What keeps facts from being invented is ours: an
answer with a content word that no field of the item holds is refused, and the original title stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from encoders.augment.answers import MUCH_TOO_LONG, cleaned, refusal
from encoders.augment.facts import Facts
from encoders.augment.title import MOST_WORDS, Enriched, cut_title, kept
from encoders.entities import STOP_WORDS, words
from encoders.products import Product
from encoders.raw_products import in_threads
from moonrec.images import BrokenImage, decode_image

_VERSION = 2
_LARGEST_SIDE = 512
# Beyond this ratio of the sides, image processors of the Qwen family refuse.
_NARROWEST = 100
_ANSWER_TOKENS = 96
_LONGEST_FIELD = 300
_MOST_ENTITIES = 24
_TASK = (
    "Rewrite the title of this product for a shop's catalogue, so that it tells more of what the product is. "
    "Use only what is written below; the picture helps to choose what matters. Add no number, brand, "
    "material or claim that is not written below. Answer with the title alone, in at most "
    f"{MOST_WORDS} words, in the language of the title."
)


class Writer(Protocol):
    """What is needed of a model; an `MllmEncoder` has it."""

    def generate(
        self, images: Sequence[Image.Image | None], prompts: Sequence[str], max_new_tokens: int = 64
    ) -> list[str]:
        """Answers to prompts, each about one picture or none."""

    def fingerprint(self) -> str:
        """A digest of the model's configuration and weights."""


class MllmEnricher:
    """Asks a model for titles and keeps those that say nothing but what the item says.

    Args:
        writer: the model, frozen and on its device.
        name: what the provenance column calls it, after `mllm:`.
    """

    def __init__(self, writer: Writer, name: str) -> None:
        self._writer = writer
        self.name = f"mllm:{name}"

    def fingerprint(self) -> str:
        """A digest of the model and of how it is asked."""
        settings = (
            _VERSION, _TASK, _LARGEST_SIDE, _ANSWER_TOKENS, _LONGEST_FIELD, _MOST_ENTITIES, MUCH_TOO_LONG,
        )  # fmt: skip
        return hashlib.sha256(f"{self.name} {self._writer.fingerprint()} {settings}".encode()).hexdigest()

    def enrich(self, products: Sequence[Product]) -> list[Enriched]:
        """One enriched title, or why there is none, per product; items without words are not asked about."""
        facts = [Facts.of(product) for product in products]
        asked = [row for row, one in enumerate(facts) if one.vocabulary]
        pictures = in_threads(_picture, [products[row] for row in asked])
        prompts = [prompt(facts[row]) for row in asked]
        answers = self._writer.generate(pictures, prompts, max_new_tokens=_ANSWER_TOKENS) if asked else []
        results = [kept("the item has no words")] * len(products)
        for row, answer in zip(asked, answers, strict=True):
            results[row] = self._judged(answer, facts[row])
        return results

    def _judged(self, answer: str, facts: Facts) -> Enriched:
        title = cleaned(answer)
        if reason := refusal(title, facts):
            return kept(reason)
        title = cut_title(title)
        # Of a cut answer, only what is left counts.
        if reason := refusal(title, facts):
            return kept(reason)
        return Enriched(title, self.name)


def prompt(facts: Facts) -> str:
    """The question about one item; each field is shown up to 300 characters."""
    fields = {
        "Title": facts.title,
        "Category": ", ".join(facts.levels),
        "Attributes": ", ".join(f"{name}: {value}" for name, value in facts.attributes),
        "Entities": ", ".join(_entities(facts)),
    }
    lines = [f"{name}: {text[:_LONGEST_FIELD]}" for name, text in fields.items() if text]
    return "\n".join((_TASK, *lines))


def _entities(facts: Facts) -> list[str]:
    """What title and description name, each once, in their order; nothing that the description denies."""
    told = dict.fromkeys(words("\n".join((facts.title, *facts.statements))))
    return [word for word in told if len(word) > 1 and word not in STOP_WORDS][:_MOST_ENTITIES]


def _picture(product: Product) -> Image.Image | None:
    if product.image is None:
        return None
    try:
        picture = decode_image(product.image, draft_size=_LARGEST_SIDE)
    except BrokenImage:
        return None
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return picture if max(picture.size) <= _NARROWEST * min(picture.size) else None
