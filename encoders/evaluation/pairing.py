"""Which queries, items or results of two entrants are the same, so that they can be compared pair by pair.

Shapes: Q queries of each, I items of each, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import TypeVar

import numpy as np

from encoders.evaluation.results import QueryResults

_Part = TypeVar("_Part")


def paired_queries(one: QueryResults, other: QueryResults) -> tuple[np.ndarray, np.ndarray]:
    """Places of the queries that both were asked: that the same row shows, with as many positives.

    Two encoders are asked the same queries. Where an embedding set takes all photos of an item as one query
    and an encoder takes each, only those of items with a single photo are the same question.
    """
    keys = [np.stack([each.row_Q, each.positives_Q], axis=1) for each in (one, other)]
    return common_rows(*keys)


def common_rows(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the rows (I, C) that both arrays have; the rows of each are distinct."""
    both, number = np.unique(np.concatenate([one, other]), axis=0, return_inverse=True)
    place, place_of_other = np.full(len(both), -1), np.full(len(both), -1)
    place[number[: len(one)]] = np.arange(len(one))
    place_of_other[number[len(one) :]] = np.arange(len(other))
    shared = (place >= 0) & (place_of_other >= 0)
    return place[shared], place_of_other[shared]


def matched(
    main: Sequence[_Part],
    baseline: Sequence[_Part],
    name_of: Callable[[_Part], str],
    uncompared: MutableMapping[str, str],
) -> Iterator[tuple[_Part, _Part]]:
    """The parts that both did, and a reason for each that one of them did alone."""
    ours: Mapping[str, _Part] = {name_of(one): one for one in main}
    theirs: Mapping[str, _Part] = {name_of(one): one for one in baseline}
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if name in ours and name in theirs:
            yield ours[name], theirs[name]
        else:
            uncompared[name] = whose(name in ours)


def whose(is_main: bool) -> str:
    """Why there is nothing to compare with what only one of them did."""
    return "the baseline does not do it" if is_main else "only the baseline does it"
