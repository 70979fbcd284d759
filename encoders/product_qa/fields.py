"""The fields of an item that questions are made of, and how they fill the slots of the templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from encoders.product_qa.templates import Templates
from encoders.products import Aspect, View

COLUMNS = ("title", "description", "category", "attributes")
_LISTED_ATTRIBUTES = 8


@dataclass(frozen=True)
class ProductFields:
    """What the catalogue says of an item, blanks left out; `levels` of the category, widest first."""

    title: str
    description: str
    levels: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ProductFields:
        """The fields of a row of the `items` table; columns may be missing."""
        pairs = row.get("attributes") or []
        pairs = pairs.items() if isinstance(pairs, dict) else pairs
        cleaned = ((_clean(name), _clean(value)) for name, value in pairs)
        levels = (_clean(level) for level in (row.get("category") or "").split(">"))
        return cls(
            title=_clean(row.get("title")),
            description=_clean(row.get("description")),
            levels=tuple(level for level in levels if level),
            attributes=tuple((name, value) for name, value in cleaned if name and value),
        )

    def aspects(self) -> View:
        """The aspects that a prompt could show in words."""
        told = {
            Aspect.TITLE: self.title,
            Aspect.CATEGORY: self.levels,
            Aspect.ATTRIBUTES: self.attributes,
            Aspect.DESCRIPTION: self.description,
        }
        return frozenset(aspect for aspect, value in told.items() if value)

    def slots(self, templates: Templates, rng: np.random.Generator) -> dict[str, str]:
        """The slots that this item can fill; which attribute is asked about is drawn.

        Which slots there are does not depend on what is drawn.
        """
        telling = [level for level in self.levels if level.casefold() not in templates.vague_levels]
        leaf = telling[-1] if telling else ""
        values = {
            "title": self.title,
            "description": self.description,
            "category": ", ".join(telling),
            "leaf": leaf,
            "subject": leaf or self.title,
            "attributes": self._listed(templates.longest_value),
        }
        styles = [pair for pair in self.attributes if _is_style(pair[0], templates)]
        for kind, pairs in (("attribute", self.attributes), ("style", styles)):
            name, value = pairs[int(rng.integers(len(pairs)))] if pairs else ("", "")
            values |= {f"{kind}_name": name, f"{kind}_value": value}
        return {slot: _cut(value, templates.longest_value) for slot, value in values.items() if value}

    def _listed(self, longest: int) -> str:
        """The first attributes, as many as fit; at least one."""
        listed = ""
        for name, value in self.attributes[:_LISTED_ATTRIBUTES]:
            longer = f"{listed}, {name}: {value}" if listed else f"{name}: {value}"
            if listed and len(longer) > longest:
                break
            listed = longer
        return listed


def _is_style(name: str, templates: Templates) -> bool:
    name = name.casefold()
    return not templates.style_names.isdisjoint([name, *re.split(r"[\W_]+", name)])


def _clean(text: object) -> str:
    """Without white space around it and line breaks in it; null becomes empty."""
    return " ".join(str(text).split()) if text is not None else ""


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    kept = text[: longest + 1]
    space = kept.rfind(" ")
    return kept[:space] if space > 0 else text[:longest]
