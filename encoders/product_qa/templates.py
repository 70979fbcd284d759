"""The phrasings of product questions and answers (`templates.yaml`), read and checked once."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from encoders.products import Aspect, View

# The slots that tell a field's content, and the aspects that must be hidden where they are the answer. An
# attribute's name tells nothing of its value.
REVEALS: dict[str, View] = {
    "title": frozenset({Aspect.TITLE}),
    "category": frozenset({Aspect.CATEGORY}),
    "leaf": frozenset({Aspect.CATEGORY}),
    "subject": frozenset({Aspect.CATEGORY, Aspect.TITLE}),
    "attributes": frozenset({Aspect.ATTRIBUTES}),
    "attribute_name": frozenset(),
    "attribute_value": frozenset({Aspect.ATTRIBUTES}),
    "style_name": frozenset(),
    "style_value": frozenset({Aspect.ATTRIBUTES}),
    "description": frozenset({Aspect.DESCRIPTION}),
}
SLOTS = tuple(REVEALS)
_FILE = Path(__file__).with_name("templates.yaml")


@dataclass(frozen=True)
class Form:
    """One phrasing of an answer and the questions that it answers; `view` is what the prompt may show."""

    task: str
    view: View
    questions: tuple[str, ...]
    answer: str

    @property
    def slots(self) -> frozenset[str]:
        """What an item must be able to fill."""
        return frozenset().union(*(slots_of(text) for text in (*self.questions, self.answer)))


@dataclass(frozen=True)
class Templates:
    """All forms, and the word lists that decide how slots are filled."""

    forms: tuple[Form, ...]
    style_names: frozenset[str]
    vague_levels: frozenset[str]
    longest_value: int

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the file."""
        return tuple(dict.fromkeys(form.task for form in self.forms))


@cache
def templates() -> Templates:
    """The templates that ship with the package.

    Raises:
        ValueError: a form uses a slot that does not exist, or shows what it asks about.
    """
    return parse_templates(yaml.safe_load(_FILE.read_text(encoding="utf-8")))


def parse_templates(values: dict[str, Any]) -> Templates:
    """Check the content of a template file; see `templates`."""
    return Templates(
        forms=tuple(
            _form(task, form, answer)
            for task, forms in values["tasks"].items()
            for form in forms
            for answer in form["answers"]
        ),
        style_names=frozenset(str(name).casefold() for name in values["style_names"]),
        vague_levels=frozenset(str(name).casefold() for name in values["vague_levels"]),
        longest_value=int(values["longest_value"]),
    )


def slots_of(text: str) -> frozenset[str]:
    """The names in braces."""
    return frozenset(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def _form(task: str, values: dict[str, Any], answer: str) -> Form:
    view = frozenset(Aspect[name.upper()] for name in values["view"])
    form = Form(task, view, tuple(values["questions"]), answer)
    unknown = form.slots - REVEALS.keys()
    if unknown:
        raise ValueError(f"task {task}: no slot is called {', '.join(sorted(unknown))}")
    revealed = frozenset().union(*(REVEALS[slot] for slot in form.slots))
    if revealed & view:
        shown = ", ".join(sorted(aspect.name.lower() for aspect in revealed & view))
        raise ValueError(f"task {task}: the prompt shows what is asked about: {shown}")
    return form
