"""Enriched titles without a model: the title, then what the item's other fields say that it does not.

Nothing but the item's own words is used, so nothing can be invented; a word stands in the result once.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence

from encoders.augment.facts import Facts
from encoders.augment.negation import negations, says_nothing
from encoders.augment.title import LONGEST_CHARACTERS, MOST_WORDS, Enriched, fits, kept
from encoders.entities import STOP_WORDS, words
from encoders.products import Product

_VERSION = 2
_YES = frozenset({"yes", "true", "y"})
_EDGES = " \t,.;:!?()[]{}\"'“”‘’«»|/\\–—-"
# A first sentence names what matters early; more of it would push the attributes out.
_DESCRIPTION_WORDS = 8


class RuleEnricher:
    """Adds to a title its category's last level, attribute values and words of the description, in turn.

    The result has at most 160 characters and 24 words; what does not fit is left out. Of a phrase whose words
    the title knows in part, only the others are added.

    Example: `Oak bottle` with the category `Home > Bottles` and the attributes color: lilac, material: oak
    becomes `Oak bottle, Bottles, lilac`.
    """

    name = "rules"

    def fingerprint(self) -> str:
        """A digest of the rules."""
        settings = (_VERSION, LONGEST_CHARACTERS, MOST_WORDS, _DESCRIPTION_WORDS)
        return hashlib.sha256(f"rules {settings}".encode()).hexdigest()

    def enrich(self, products: Sequence[Product]) -> list[Enriched]:
        """One enriched title, or why there is none, per product."""
        return [_enrich(Facts.of(product)) for product in products]


def _enrich(facts: Facts) -> Enriched:
    if not facts.vocabulary:
        return kept("the item has no words")
    if facts.title and not fits(facts.title):
        return kept("the title is as long as titles may be")
    title = _Title(facts.title)
    for phrase in _phrases(facts):
        title.add(phrase)
    separator = ", "
    for word in _first_sentence(facts):
        if title.add(word, separator):
            separator = " "
    if title.text == facts.title:
        return kept("the other fields say nothing new")
    return Enriched(title.text, RuleEnricher.name)


class _Title:
    """A title that grows by what is new."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._known = set(words(text))

    def add(self, phrase: str, separator: str = ", ") -> bool:
        """Append the new words of a phrase; False if there are none or they do not fit."""
        new = self._new_part(phrase)
        longer = f"{self.text}{separator}{new}" if self.text else new
        if not new or not fits(longer):
            return False
        self.text = longer
        self._known.update(words(new))
        return True

    def _new_part(self, phrase: str) -> str:
        fresh: list[str] = []
        seen = set(self._known)
        for token in phrase.split():
            token = token.strip(_EDGES)
            inside = set(words(token))
            if inside and not inside <= seen and not self._holds(token):
                fresh.append(token)
                seen |= inside
        if all(word in STOP_WORDS for token in fresh for word in words(token)):
            return ""
        whole = " ".join(phrase.split()).strip(_EDGES)
        told = list(words(whole))
        # Signs between words stay where all of the phrase is new: `Kestrel & Co`.
        if self._known.isdisjoint(told) and len(set(told)) == len(told):
            return whole
        # What is denied in a phrase stands nowhere without its negation.
        return "" if negations(phrase) else " ".join(fresh)

    def _holds(self, token: str) -> bool:
        """Whether the title holds a token of a script that writes no spaces, wherever its words are cut."""
        return not token.isascii() and _folded(token) in _folded(self.text)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _phrases(facts: Facts) -> Iterator[str]:
    yield from facts.levels[-1:]
    for name, value in facts.attributes:
        folded = value.casefold()
        if folded in _YES:
            yield name
        elif not says_nothing(value):
            # A bare number, or `not included`, says nothing without its name.
            is_whole = any(map(str.isalpha, value)) and not negations(value)
            yield value if is_whole else f"{name} {value}"


def _first_sentence(facts: Facts) -> list[str]:
    """The content words of the description's first sentence, at most eight.

    A sentence that shares no content word with title, category and attributes is as likely about the shop as
    about the item: nothing of it is taken.
    """
    tokens = [token.strip(_EDGES) for token in facts.statements[0].split()]
    telling = [token for token in tokens if any(word not in STOP_WORDS for word in words(token))]
    known = set(words("\n".join((facts.title, *facts.levels, *_phrases(facts))))) - STOP_WORDS
    is_about_item = any(word in known for token in telling for word in words(token))
    return telling[:_DESCRIPTION_WORDS] if is_about_item else []
