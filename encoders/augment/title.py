"""Enriched titles: what became of one, how long one may be, and who makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from encoders.entities import words
from encoders.products import Product

# Ours. About what the shortest reader takes: the compact backbone reads 32 word pieces of a title, CLIP 77 of
# all texts, an MLLM 64; a word of English product text is 1.3 pieces.
LONGEST_CHARACTERS = 160
MOST_WORDS = 24


@dataclass(frozen=True)
class Enriched:
    """The enriched title of an item; without one, `source` is `kept: ` and why."""

    title: str | None
    source: str


NO_TITLE = Enriched(None, "kept: not asked for")


class TitleEnricher(Protocol):
    """Makes enriched titles."""

    name: str

    def fingerprint(self) -> str:
        """A digest of everything that the titles depend on, besides the products."""

    def enrich(self, products: Sequence[Product]) -> list[Enriched]:
        """One enriched title, or why there is none, per product."""


def kept(reason: str) -> Enriched:
    """The original title stands."""
    return Enriched(None, f"kept: {reason}")


def fits(title: str) -> bool:
    """Whether a title is as short as titles have to be."""
    return len(title) <= LONGEST_CHARACTERS and sum(1 for _ in words(title)) <= MOST_WORDS


def cut_title(title: str) -> str:
    """The title, cut after its last word that fits; a single longer word is cut within."""
    while not fits(title):
        head, space, _ = title[: LONGEST_CHARACTERS + 1].rpartition(" ")
        title = head if space else title[: min(LONGEST_CHARACTERS, len(title) - 1)]
    return title.rstrip(" ,;:-–—/&+(")
