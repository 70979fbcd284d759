"""A language model's answer to the question for a title: cleaned, then held against the item's own words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from encoders.augment.facts import Facts
from encoders.augment.negation import negations
from encoders.augment.title import LONGEST_CHARACTERS
from encoders.entities import STOP_WORDS, words

# An answer that is longer than this rambles; one a little too long is cut.
MUCH_TOO_LONG = 4 * LONGEST_CHARACTERS
_MOST_REPEATED = 3
_LEAST_KEPT = 0.5
_LABEL = re.compile(
    r"^(?:here is|here's)?\s*(?:the|a)?\s*(?:new|rewritten|enriched|improved)?\s*"
    r"(?:product\s+)?(?:title|标题)\s*(?:is)?\s*[:：]\s*",
    re.IGNORECASE,
)
_MARKS = re.compile(r"[*_`#>]+")
_QUOTES = " \t\"'“”‘’«»「」《》"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd]+")
_UNSPACED = frozenset({"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"})


def cleaned(answer: str) -> str:
    """The first line of an answer that holds words, without labels, quotes and marks of formatting."""
    for line in answer.splitlines():
        line = _MARKS.sub(" ", _CONTROL.sub(" ", line))
        line = _LABEL.sub("", " ".join(line.split())).strip(_QUOTES).rstrip(".。 ")
        # What ends in a colon announces the title that follows.
        if next(words(line), None) is not None and not line.endswith((":", "：")):
            return line
    return ""


def refusal(title: str, facts: Facts) -> str | None:
    """Why a cleaned answer cannot stand as the item's title; None if it can.

    Stop words and a word's plural are no facts, but an answer has to deny what the title denies and nothing
    else. In scripts that write no spaces the single characters have to occur, since where their words end is
    not known.
    """
    said = list(words(title))
    content = [word for word in said if word not in STOP_WORDS]
    if not content:
        return "the answer is empty"
    if len(title) > MUCH_TOO_LONG:
        return "the answer is far too long"
    if Counter(content).most_common(1)[0][1] > _MOST_REPEATED or 2 * len(set(said)) < len(said):
        return "the answer repeats itself"
    new = [word for word in content if not _occurs(word, facts.vocabulary, facts.text)]
    if len(new) == len(content):
        return "the answer has nothing of the item"
    if any(any(map(str.isdigit, word)) for word in new):
        return "the answer has a number that is in no field"
    if new:
        return "the answer has words that are in no field"
    if negations(title) != negations(facts.title):
        return "the answer denies something else than the title"
    own_words = frozenset(words(facts.title))
    own = own_words - STOP_WORDS
    if sum(_occurs(word, frozenset(said), title) for word in own) < _LEAST_KEPT * len(own):
        return "the answer leaves out most of the title"
    if all(_occurs(word, own_words, facts.title) for word in content):
        return "the answer says nothing new"
    return None


def _occurs(word: str, vocabulary: frozenset[str], text: str) -> bool:
    """Whether a text, whose words are `vocabulary`, has a word, or its plural or singular."""
    if word in vocabulary:
        return True
    if any(map(str.isdigit, word)):
        return False
    if all(_is_unspaced(character) for character in word):
        folded = unicodedata.normalize("NFKC", text).casefold()
        return all(character in folded for character in word)
    return word.removesuffix("s") in vocabulary or f"{word}s" in vocabulary


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").split(" ")[0] in _UNSPACED
