"""How much of a vector each aspect of its product is: exact Shapley values over what is shown.

Aspects repeat each other (a title names the category), so that leaving one out may change nothing, though it
would do alone. Shapley values (https://arxiv.org/abs/1705.07874 for models) average what an aspect adds over
every order in which aspects could be shown; they sum to the value of the whole product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb

from encoders.products import Aspect, Product, View


def aspects_of(product: Product, *, pictured: bool) -> list[Aspect]:
    """What there is of a product; the picture counts if it can be used."""
    return [Aspect.IMAGE] * pictured + [aspect for aspect, _ in product.texts]


def views_of(aspects: Sequence[Aspect]) -> list[View]:
    """Every way to show some of these aspects."""
    return [
        frozenset(chosen) for size in range(1, len(aspects) + 1) for chosen in combinations(aspects, size)
    ]


def shapley(aspects: Sequence[Aspect], value: Mapping[View, float]) -> dict[Aspect, float]:
    """The Shapley value of each aspect, given the `value` of every one of `views_of`; nothing is worth 0."""
    count, worth = len(aspects), {frozenset[Aspect](): 0.0, **value}
    return {
        one: sum(
            (worth[view | {one}] - worth[view]) / (count * comb(count - 1, len(view)))
            for view in worth
            if one not in view
        )
        for one in aspects
    }
