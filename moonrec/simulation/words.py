"""Noisy texts of a product: title, attributes, description, and what a shopper would type to find it.

Each fact is told in some of the places only, with any of its synonyms; colours are told seldom and at times
wrongly, patterns hardly ever, so that much of the look is only in the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moonrec.simulation.catalogue import WORD_FACTS, Catalogue
from moonrec.simulation.seeds import stream
from moonrec.simulation.vocabulary import (
    BRANDS,
    COLOURS,
    FILLER,
    KINDS,
    MATERIALS,
    MOODS,
    OCCASIONS,
    PATTERNS,
    SHAPES,
    colour_name,
)

SYNONYMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "material": tuple(MATERIALS.values()),
    "brand": tuple((brand, brand.lower()) for brand in BRANDS),
    "mood": tuple(MOODS.values()),
    "occasion": tuple(OCCASIONS.values()),
}
FACT_NAMES: dict[str, tuple[str, ...]] = {
    "material": tuple(MATERIALS),
    "brand": BRANDS,
    "mood": tuple(MOODS),
    "occasion": tuple(OCCASIONS),
}
_DESCRIPTIONS = (
    "Made of {material}.",
    "Truly {mood}, and good for {occasion}.",
    "{brand} brings you this {noun}.",
    "Our {mood} collection, lovely for {occasion}.",
    "The {material} feels great.",
    "You will love this {noun}.",
    "Carefully packed and shipped within two days.",
    "Please allow small differences in size.",
)


@dataclass(frozen=True)
class Text:
    """What a shop page says of an item; anything but the title may be missing."""

    title: str
    description: str | None
    attributes: dict[str, str] | None
    category: str | None


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _say(rng: np.random.Generator, fact: str, code: int) -> str:
    return _pick(rng, SYNONYMS[fact][code])


def _colour(rng: np.random.Generator, catalogue: Catalogue, item: int) -> str:
    """Name the colour, one time in seven wrongly."""
    if rng.random() < 1 / 7:
        return _pick(rng, COLOURS[int(rng.integers(len(COLOURS)))][1:])
    return colour_name(float(catalogue.hue[item]), float(catalogue.lightness[item]))


def write_text(catalogue: Catalogue, item: int, seed: int) -> Text:
    """Write the shop page of the item at position `item`."""
    rng = stream(seed, "text", item)
    kind = KINDS[SHAPES[catalogue.shape[item]]]
    codes = dict(zip(WORD_FACTS, catalogue.words_IF[item].tolist(), strict=True))
    return Text(
        title=_title(rng, catalogue, item, codes, kind.nouns),
        description=_description(rng, codes, kind.nouns) if rng.random() < 0.7 else None,
        attributes=_attributes(rng, catalogue, item, codes),
        category=_category(rng, kind.category),
    )


def _title(
    rng: np.random.Generator,
    catalogue: Catalogue,
    item: int,
    codes: dict[str, int],
    nouns: Sequence[str],
) -> str:
    said = rng.random(6) < (0.55, 0.55, 0.4, 0.1, 0.4, 0.5)
    parts = [
        _say(rng, fact, codes[fact]) for fact, tell in zip(("mood", "material"), said, strict=False) if tell
    ]
    if said[2]:
        parts.append(_colour(rng, catalogue, item))
    if said[3]:
        parts.append(_pick(rng, list(PATTERNS.values())[catalogue.pattern[item]]))
    parts = [parts[i] for i in rng.permutation(len(parts))]
    parts.append(_pick(rng, nouns))
    if said[4]:
        parts.append("for " + _say(rng, "occasion", codes["occasion"]))
    if said[5]:
        parts.insert(int(rng.choice((0, len(parts)))), _pick(rng, FILLER))
    if rng.random() < 0.65:
        parts.insert(int(rng.choice((0, len(parts)), p=(0.8, 0.2))), BRANDS[codes["brand"]])
    title = " ".join(parts)
    return title.title() if rng.random() < 0.5 else title


def _attributes(
    rng: np.random.Generator, catalogue: Catalogue, item: int, codes: dict[str, int]
) -> dict[str, str] | None:
    if rng.random() < 0.04:
        return None
    names = {"material": "material", "brand": "brand", "mood": "style", "occasion": "occasion"}
    shares = {"material": 0.6, "brand": 0.6, "mood": 0.45, "occasion": 0.4}
    found = {names[f]: FACT_NAMES[f][codes[f]] for f in WORD_FACTS if rng.random() < shares[f]}
    if rng.random() < 0.25:
        found["color"] = _colour(rng, catalogue, item)
    if rng.random() < 0.5:
        found["weight"] = f"{int(rng.integers(1, 20)) * 50} g"
    if rng.random() < 0.3:
        found["size"] = _pick(rng, ("S", "M", "L", "one size"))
    return found


def _description(rng: np.random.Generator, codes: dict[str, int], nouns: Sequence[str]) -> str:
    count = int(rng.integers(1, 5))
    chosen = rng.choice(len(_DESCRIPTIONS), size=count, replace=False)
    said = {fact: _say(rng, fact, codes[fact]) for fact in WORD_FACTS}
    return " ".join(_DESCRIPTIONS[i].format(noun=_pick(rng, nouns), **said) for i in chosen)


def _category(rng: np.random.Generator, category: str) -> str | None:
    """Return the category; some items sit in a vague leaf of the same parent, a few have none."""
    luck = rng.random()
    if luck < 0.03:
        return None
    return category if luck < 0.9 else category.rsplit(" > ", 1)[0] + " > Other"


def write_query(catalogue: Catalogue, item: int, rng: np.random.Generator) -> str:
    """Write the few words with which a shopper looks for the item."""
    codes = dict(zip(WORD_FACTS, catalogue.words_IF[item].tolist(), strict=True))
    parts = [_say(rng, fact, codes[fact]).lower() for fact in WORD_FACTS if rng.random() < 0.4]
    if rng.random() < 0.35:
        parts.append(_colour(rng, catalogue, item))
    parts = [parts[i] for i in rng.permutation(len(parts))][:3]
    noun = _pick(rng, KINDS[SHAPES[catalogue.shape[item]]].nouns)
    return " ".join([*parts, noun] if rng.random() < 0.9 or not parts else parts)


def write_wish(shape: int, mood: int, occasion: int, rng: np.random.Generator) -> str:
    """Write what a shopper types who has no item in mind yet, only a kind of product and a taste."""
    parts = [_say(rng, "mood", mood)] if rng.random() < 0.7 else []
    parts.append(_pick(rng, KINDS[SHAPES[shape]].nouns))
    if rng.random() < 0.4:
        parts.append("for " + _say(rng, "occasion", occasion))
    return " ".join(parts)
