"""What a text denies: words torn out of `not dimmable` or `without sugar` would say the opposite.

The lists cover common languages of shops. They rather take a word too many for a negation than one too few:
then a title lacks a fact, otherwise it would tell a wrong one.
"""

from __future__ import annotations

import re
import unicodedata

from encoders.entities import words

_WORD_LIST = """
no not nor non none nothing neither never cannot without except excepting excluding exclude excludes
excluded lack lacks lacking zero minus unless unlike instead rather but avoid avoids hardly barely free
nicht nichts kein keine keinen keinem keiner keines ohne nie niemals außer frei
sans pas ne ni jamais aucun aucune sauf sin ningún ninguno ninguna nunca jamás excepto salvo
senza nessun nessuno nessuna tranne sem não nao nenhum nenhuma exceto
niet geen zonder nooit behalve vrij inte utan ikke uden uten bez nie не без нет ни
değil yok olmayan बिना नहीं بدون لا غير ليس
"""
_WORDS = frozenset(words(_WORD_LIST))
# They deny the word before them: `sugar free`. All others deny what follows.
_AFTER = frozenset({"free", "frei", "vrij"})
_CONTRACTED = re.compile(r"n['’]t\b")
# Scripts without spaces, and Korean, where the syllable stands within a word.
_PARTS = re.compile(
    "(不|无|無|非|没|沒|未|勿|免|禁|ない|なし|ません|없|않|아니|ไม่|ไร้|ปราศจาก)(.?)", re.DOTALL
)
_NOTHING_LIST = """
no false n none null nil nan n/a na n.a unknown unspecified undefined other not absent tbd
nein kein keine keiner nicht non aucun aucune sans ninguno ninguna não nao nenhum nee geen nie нет
否 无 無 不 没有 不是 不适用 未知 いいえ なし 아니요 없음
"""
_NOTHING_PHRASES = {
    "not applicable", "not available", "not specified", "not known", "does not apply", "see description",
}  # fmt: skip
_NOTHING = frozenset(_NOTHING_LIST.split()) | _NOTHING_PHRASES
_ZERO = re.compile(r"[-+]?0+(?:[.,]0+)?\s*%?")
_EDGES = " \t.,;:!?()[]{}\"'“”‘’–—-_"


def negations(text: str) -> frozenset[tuple[str, str]]:
    """Each negation of a text with the word (in scripts without spaces, the character) that it denies."""
    folded = _CONTRACTED.sub(" not ", unicodedata.normalize("NFKC", text).casefold())
    told = ["", *words(folded), ""]
    by_word = {
        (word, told[place - 1] if word in _AFTER else told[place + 1])
        for place, word in enumerate(told)
        if word in _WORDS
    }
    return frozenset(by_word | {(match[1], match[2].strip()) for match in _PARTS.finditer(folded)})


def says_nothing(value: str) -> bool:
    """Whether an attribute's value says that the attribute does not hold, or is not known."""
    folded = unicodedata.normalize("NFKC", value).casefold().strip(_EDGES)
    return folded in _NOTHING or _ZERO.fullmatch(folded) is not None or next(words(folded), None) is None
