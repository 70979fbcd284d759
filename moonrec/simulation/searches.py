"""Who searched for what: purchases that began with a photo, a few words, or both.

A search is a log of its own: its purchase is not repeated among the events.

Legend: N searches, C users of which one searches, T tries for an item that was shown and not taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moonrec.simulation.catalogue import END, START, TEST_START, BoolArray, Catalogue, IntArray
from moonrec.simulation.seeds import stream
from moonrec.simulation.tastes import TASTES, Matcher, Users

MINIMUM = 50
_USERS, _TRIES = 12, 12
_MODALITIES = (0.6, 0.75)
"""Below the first: photo only; below the second: words only; else both."""


@dataclass(frozen=True)
class Searches:
    """Sorted by time; `negative` is -1 where nothing else was shown."""

    user: IntArray
    item: IntArray
    negative: IntArray
    time: IntArray
    has_image: BoolArray
    has_text: BoolArray

    def __len__(self) -> int:
        return len(self.item)


def draw_searches(catalogue: Catalogue, users: Users, matcher: Matcher, split: str, seed: int) -> Searches:
    """Draw the searches of `split` ("train" or "test"); every item is bought about equally often."""
    rng = stream(seed, "searches " + split)
    begin, end, share = (START, TEST_START, 2) if split == "train" else (TEST_START, END, 4)
    count = max(MINIMUM, len(catalogue) // share)
    on_sale = np.flatnonzero(catalogue.launch < end)
    rounds = -(-count // len(on_sale))
    item = np.concatenate([rng.permutation(on_sale) for _ in range(rounds)])[:count]
    since = np.maximum(catalogue.launch[item], begin)
    time = since + (rng.random(count) * (end - since)).astype(np.int64)
    order = np.argsort(time, kind="stable")
    item, time = item[order], time[order]
    modality = rng.random(count)
    return Searches(
        user=_fitting_users(users, matcher, item, rng),
        item=item,
        negative=_rejected(catalogue, item, time, rng),
        time=time,
        has_image=(modality < _MODALITIES[0]) | (modality >= _MODALITIES[1]),
        has_text=modality >= _MODALITIES[0],
    )


def _fitting_users(users: Users, matcher: Matcher, item: IntArray, rng: np.random.Generator) -> IntArray:
    """Choose for each item the user, out of a few, whom it fits best."""
    user_NC = rng.integers(0, len(users), (len(item), _USERS))
    user_P = user_NC.ravel()
    now_P3 = rng.integers(0, TASTES, (len(user_P), 3))
    utility_P1 = matcher.utility(user_P, matcher.match(user_P, np.repeat(item, _USERS)[:, None], now_P3))
    best = utility_P1.reshape(user_NC.shape).argmax(axis=1)
    return user_NC[np.arange(len(item)), best]


def _rejected(catalogue: Catalogue, item: IntArray, time: IntArray, rng: np.random.Generator) -> IntArray:
    """Draw another product of the same kind that was on sale, for three searches of four, else -1."""
    by_shape = np.argsort(catalogue.shape, kind="stable")
    edges = np.searchsorted(catalogue.shape[by_shape], np.arange(catalogue.shape.max() + 2))
    shape = catalogue.shape[item]
    low, size = edges[shape], (edges[1:] - edges[:-1])[shape]
    tried_NT = by_shape[low[:, None] + (rng.random((len(item), _TRIES)) * size[:, None]).astype(np.int64)]
    fits_NT = catalogue.product[tried_NT] != catalogue.product[item, None]
    fits_NT &= catalogue.launch[tried_NT] <= time[:, None]
    found = tried_NT[np.arange(len(item)), fits_NT.argmax(axis=1)]
    return np.where(fits_NT.any(axis=1) & (rng.random(len(item)) < 0.75), found, -1)
