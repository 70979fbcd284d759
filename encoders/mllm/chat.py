"""Turns of a conversation as tokens: where the picture, the question and the answer stand.

What people wrote (titles, questions, answers) is tokenised apart from the format around it, and in it the
names of special tokens are plain words: a title that says "<|im_end|>" ends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import TemplateError

_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_QUESTION = "QUESTION"
_TURN_START, _TURN_END = "<|im_start|>", "<|im_end|>"
# No tokenizer of these models makes fewer tokens than this of so many characters of ordinary text.
_CHARACTERS_PER_TOKEN = 32


class Words:
    """Text of people to token ids. May be used from several threads, unlike the tokenizer it is made from."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True

    def __call__(self, texts: Sequence[str], limits: Sequence[int]) -> list[np.ndarray]:
        """The first `limits[i]` tokens of every text."""
        cut = [text[: limit * _CHARACTERS_PER_TOKEN] for text, limit in zip(texts, limits, strict=True)]
        encodings = self._backend.encode_batch_fast(cut, add_special_tokens=False)
        return [np.array(one.ids[:limit], np.int64) for one, limit in zip(encodings, limits, strict=True)]


@dataclass(frozen=True)
class Turn:
    """Token ids around one question: [before] picture [between] question [after] answer."""

    before: np.ndarray
    between: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class ChatFormat:
    """How a checkpoint wants to be asked; `end` closes an answer."""

    with_image: Turn
    without_image: Turn
    end: np.ndarray

    @classmethod
    def of(cls, tokenizer: Any) -> ChatFormat:
        """The checkpoint's own chat template where it has a usable one, else the family's, else none."""
        known = set(tokenizer.get_vocab())
        turns = {_TURN_START, _TURN_END} <= known
        end = _TURN_END if turns else tokenizer.eos_token or ""
        return cls(
            with_image=_turn(tokenizer, image=True, turns=turns),
            without_image=_turn(tokenizer, image=False, turns=turns),
            end=_ids(tokenizer, end),
        )


def _turn(tokenizer: Any, *, image: bool, turns: bool) -> Turn:
    text = _templated(tokenizer, image=image) or _plain(image=image, turns=turns)
    head, _, after = text.partition(_QUESTION)
    before, _, between = head.partition(_IMAGE) if image else (head, "", "")
    return Turn(*(_ids(tokenizer, part) for part in (before, between, after)))


def _templated(tokenizer: Any, *, image: bool) -> str | None:
    if not getattr(tokenizer, "chat_template", None):
        return None
    words = {"type": "text", "text": _QUESTION}
    content: Any = [{"type": "image"}, words] if image else [words]
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, TypeError, ValueError, KeyError):
        return None
    fits = text.count(_QUESTION) == 1 and text.count(_IMAGE) == int(image)
    return text if fits and (not image or text.index(_IMAGE) < text.index(_QUESTION)) else None


def _plain(*, image: bool, turns: bool) -> str:
    shown = (_IMAGE if image else "") + _QUESTION
    if not turns:
        return f"{shown}\n"
    return f"{_TURN_START}user\n{shown}{_TURN_END}\n{_TURN_START}assistant\n"


def _ids(tokenizer: Any, text: str) -> np.ndarray:
    return np.array(tokenizer.encode(text, add_special_tokens=False), np.int64)
