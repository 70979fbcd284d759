"""How many things a text names: the measure behind the entity filter of MOON's second round.

MOON Embedding (https://arxiv.org/abs/2511.11305) drops a query or a title with fewer than two entities and
does not say what an entity is. Without a recogniser of names, which would need a model per language, ours is
a distinct content word: no stop word, and at least two letters long, or with a digit in it, or a word of the
catalogue's own categories and attribute values (a size `M`). Scripts that write no spaces are cut by kind of
character: Chinese characters in pairs (a lone one counts), katakana and hiragana by their runs, Thai, Lao,
Khmer and Burmese every four characters, about the length of a word in each.

Shapes: R feature rows (the catalogue's, then the queries').
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moonrec.ids import codes_of
from moonrec.tables import Table

FEWEST_ENTITIES = 2
_STOPS = """
a an and any are as at be best by can cheap for free from good great has have her his how i in into is it its
me more my new no not of off on one or our out per really sale set some that the their these this those to top
truly under up us very was we what when where which with without you your
"""
# Words that join or praise but name nothing. Ours, and short: one other word more is enough to pass.
STOP_WORDS = frozenset(_STOPS.split())

_HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HIRAGANA = "\u3041-\u309f"
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_SOUTH_EAST = "\u0e01-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf\u1000-\u103e\u1050-\u109d\u1780-\u17d3"
_WORD_LENGTH = {"han": 2, "south_east": 4}
_HAN_CHARACTER = re.compile(f"[{_HAN}]")
_ASCII_WORD = re.compile("[a-z0-9]+")


class Entities:
    """Counts entities in texts; knows the words of one catalogue's categories and attributes.

    Example:
        >>> Entities().count("A red sock for the winter")
        3

    Args:
        known: words that count however short they are.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = frozenset(known)

    @classmethod
    def of_catalogue(cls, items: Table) -> Entities:
        """With the words of the catalogue's category names and attribute values."""
        present = [name for name in ("category", "attributes") if name in items.column_names]
        texts: set[str | None] = set()
        for batch in items.batches(present) if present else ():
            for name in present:
                column = batch[name].items if name == "attributes" else batch[name]
                texts.update(pc.unique(column).to_pylist())
        return cls(word for text in texts if text for word in words(text))

    def count(self, text: str) -> int:
        """Number of distinct entities in a text."""
        return sum(self._is_entity(word) for word in set(words(text)))

    def counts(self, texts: pa.ChunkedArray) -> np.ndarray:
        """Per text, int64; a null has none. Texts that occur often are read once."""
        codes, distinct = codes_of(texts)
        found = [self.count(text.as_py() or "") for text in distinct]
        return np.array([*found, 0], np.int64)[codes]

    def enough(self, items: Table, searches: Table | None = None) -> np.ndarray:
        """Which feature rows pass the filter: items by their title, queries by their words.

        An item without a title does not pass. A query without words does: there is nothing to judge.

        Returns:
            Bool, (R,), the catalogue's rows first, then those of `searches`.
        """
        enough = [self.counts(items.read(["title"]).column("title")) >= FEWEST_ENTITIES]
        if searches is not None and "query_text" in searches.column_names:
            texts = searches.read(["query_text"]).column("query_text")
            wordless = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(texts, "")), "").to_numpy()
            enough.append(wordless | (self.counts(texts) >= FEWEST_ENTITIES))
        elif searches is not None:
            enough.append(np.ones(searches.count_rows(), bool))
        return np.concatenate(enough)

    def _is_entity(self, word: str) -> bool:
        if len(word) > 1 and word.isalpha():
            return word not in STOP_WORDS
        if sum(map(str.isalpha, word)) > 1 or any(map(str.isdigit, word)):
            return True
        return word not in STOP_WORDS and (word in self._known or bool(_HAN_CHARACTER.fullmatch(word)))


def words(text: str) -> Iterator[str]:
    """The words of a text, folded to one case and one form, one after the other."""
    if text.isascii():
        yield from _ASCII_WORD.findall(text.lower())
        return
    for match in _pattern().finditer(unicodedata.normalize("NFKC", text).casefold()):
        run = match.group()
        step = _WORD_LENGTH.get(match.lastgroup or "", len(run))
        # What is left over at the end belongs to the last word: three Chinese characters are one.
        ends = [*range(step, len(run) - step + 1, step), len(run)]
        for start, end in zip([0, *ends], ends, strict=False):
            yield run[start:end]


@cache
def _pattern() -> re.Pattern[str]:
    """Runs of one kind of character. Vowel signs and accents belong to the letter before them."""
    marks = "".join(chr(code) for code in range(0x10000) if unicodedata.category(chr(code)).startswith("M"))
    unspaced = f"{_HAN}{_HIRAGANA}{_KATAKANA}{_SOUTH_EAST}"
    return re.compile(
        f"(?P<han>[{_HAN}]+)|[{_HIRAGANA}]+|[{_KATAKANA}]+|(?P<south_east>[{_SOUTH_EAST}]+)"
        f"|(?:(?![{unspaced}])[^\\W_][{marks}]*)+"
    )
