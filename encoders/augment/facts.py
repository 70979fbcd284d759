"""What an item says about itself in words: the only source of facts for its enriched title."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from encoders.augment.negation import negations, says_nothing
from encoders.entities import words
from encoders.product_qa.templates import templates
from encoders.products import Aspect, Product

# Between two attributes as a product's text lists them; the comma of a value that holds one stays.
_NEXT_ATTRIBUTE = re.compile(r", (?=[^,:]+: )")
_AFTER_SENTENCE = re.compile(r"(?<=[.!?;。！？；])\s+|(?<=[。！？；])")
_MARKS = " .!?;。！？；"


@dataclass(frozen=True)
class Facts:
    """The fields of one item in words, blanks left out.

    Attributes:
        title: as it stands, white space evened out.
        levels: of the category, widest first, without those that say nothing (`Other`).
        attributes: names and values.
        description: as it stands, white space evened out.
    """

    title: str
    levels: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...]
    description: str

    @classmethod
    def of(cls, product: Product) -> Facts:
        """The fields in a product's texts."""
        texts = {aspect: " ".join(text.split()) for aspect, text in product.texts}
        levels = (level.strip() for level in texts.get(Aspect.CATEGORY, "").split(", "))
        vague = templates().vague_levels
        pairs = (pair.partition(": ") for pair in _NEXT_ATTRIBUTE.split(texts.get(Aspect.ATTRIBUTES, "")))
        return cls(
            title=texts.get(Aspect.TITLE, ""),
            levels=tuple(level for level in levels if level and level.casefold() not in vague),
            attributes=tuple((name.strip(), value.strip()) for name, _, value in pairs if value.strip()),
            description=texts.get(Aspect.DESCRIPTION, ""),
        )

    @cached_property
    def statements(self) -> tuple[str, ...]:
        """The description's sentences; blank in the place of those that deny or ask something."""
        return tuple(
            "" if sentence.endswith(("?", "？")) or negations(sentence) else sentence.strip(_MARKS)
            for sentence in map(str.strip, _AFTER_SENTENCE.split(self.description))
        )

    @cached_property
    def text(self) -> str:
        """The title, and of the other fields, one after the other, what denies nothing."""
        pairs = (f"{name}: {value}" for name, value in self.attributes if not says_nothing(value))
        told = (phrase for phrase in (*self.levels, *pairs) if not negations(phrase))
        return "\n".join((self.title, *told, *self.statements))

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Every word of `text`, folded as `encoders.entities.words` folds it."""
        return frozenset(words(self.text))
