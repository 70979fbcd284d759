"""What users do: sessions with a momentary interest, browsing, impressions and clicks.

A session follows one look, one wording and one kind of product among the user's tastes, so what was done a
moment ago tells more than what was done last month. The label of an impression is a coin whose probability is
known: sigmoid(intercept + utility + quality + leniency), the intercept set so that one in six is clicked.

Legend: U users, S sessions, N steps (impressions or browsing events), C candidates of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moonrec.simulation.catalogue import (
    DAY,
    DAYS,
    START,
    TEST_START,
    BoolArray,
    Catalogue,
    FloatArray,
    IntArray,
)
from moonrec.simulation.seeds import stream
from moonrec.simulation.tastes import FAVOURITE_SHAPES, TASTES, Match, Matcher, Users

EVENTS = ("click", "cart", "purchase")
CLICK_RATE = 1 / 6
QUALITY_WEIGHT = 0.5
SECOND = 1_000_000
_SESSIONS, _CANDIDATES, _BLOCK = 6.4, 16, 8192
_SESSION_SPAN = 3 * 3600 * SECOND
"""Sessions of a user start at least so far apart, which is longer than any session lasts."""


@dataclass(frozen=True)
class Sessions:
    """Sessions sorted by user and time; `now_S3` holds the momentary look, wording and shape."""

    user: IntArray
    start: IntArray
    now_S3: IntArray


@dataclass(frozen=True)
class Impressions:
    """Sorted by user and time; `probability` is the truth behind `label`."""

    user: IntArray
    item: IntArray
    session: IntArray
    time: IntArray
    label: BoolArray
    probability: FloatArray
    visual_match: FloatArray
    word_match: FloatArray


@dataclass(frozen=True)
class Events:
    """Sorted by user and time; `event` indexes `EVENTS`."""

    user: IntArray
    item: IntArray
    session: IntArray
    time: IntArray
    event: IntArray


@dataclass(frozen=True)
class _Steps:
    session: IntArray
    time: IntArray
    shown: BoolArray


def simulate_behaviour(
    catalogue: Catalogue, users: Users, matcher: Matcher, seed: int
) -> tuple[Sessions, Impressions, Events]:
    """Draw the whole log of all users."""
    sessions = _draw_sessions(users, seed)
    steps = _draw_steps(sessions, seed)
    item, match = _choose_items(catalogue, matcher, sessions, steps, seed)
    keep = _first_showing(steps, item)
    steps = _Steps(steps.session[keep], steps.time[keep], steps.shown[keep])
    item, match = item[keep], {name: values[keep] for name, values in match.items()}
    user = sessions.user[steps.session]
    probability = _click_probability(
        match["utility"] + QUALITY_WEIGHT * catalogue.quality[item] + users.leniency[user], steps.shown
    )
    clicked = stream(seed, "click").random(len(item)) < probability
    seen = steps.shown
    impressions = Impressions(
        user=user[seen],
        item=item[seen],
        session=steps.session[seen],
        time=steps.time[seen],
        label=clicked[seen],
        probability=probability[seen],
        visual_match=match["visual"][seen],
        word_match=match["words"][seen],
    )
    return sessions, impressions, _draw_events(steps, user, item, ~seen | clicked, seed)


def _draw_sessions(users: Users, seed: int) -> Sessions:
    rng = stream(seed, "sessions")
    counts = 2 + np.minimum(rng.poisson((_SESSIONS - 2) * users.activity), 40)
    user = np.repeat(np.arange(len(users)), counts)
    nth = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    room = DAYS * DAY - (counts[user] + 1) * _SESSION_SPAN
    moment = rng.random(len(user))
    moment = moment[np.lexsort((moment, user))]
    now_S3 = np.stack([rng.integers(0, n, len(user)) for n in (TASTES, TASTES, FAVOURITE_SHAPES)], axis=1)
    return Sessions(user, START + (moment * room).astype(np.int64) + nth * _SESSION_SPAN, now_S3)


def _draw_steps(sessions: Sessions, seed: int) -> _Steps:
    """Lay out the steps of each session one or two minutes apart; the first is always a browsing event."""
    rng = stream(seed, "steps")
    counts = rng.integers(4, 13, len(sessions.user))
    session = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    gap = rng.integers(60 * SECOND, 150 * SECOND, len(session))
    passed = np.cumsum(gap)
    shown = rng.random(len(session)) < 0.75
    shown[first] = False
    return _Steps(session, sessions.start[session] + passed - passed[first][session], shown)


def _choose_items(
    catalogue: Catalogue, matcher: Matcher, sessions: Sessions, steps: _Steps, seed: int
) -> tuple[IntArray, dict[str, FloatArray]]:
    """Choose an item per step out of candidates drawn by popularity and on sale at that time.

    Users browse to what they like; of the impressions some are chosen by popularity alone, some by a
    recommender that half knows the user.
    """
    rng = stream(seed, "candidates")
    total = len(steps.session)
    item = np.empty(total, dtype=np.int64)
    columns: dict[str, FloatArray] = {
        name: np.empty(total, dtype=np.float32) for name in ("utility", "visual", "words")
    }
    eagerness = np.where(steps.shown, np.where(rng.random(total) < 0.6, 0.0, 0.5), 1.6)
    for low in range(0, total, _BLOCK):  # blocks bound the memory
        block = slice(low, min(low + _BLOCK, total))
        session = steps.session[block]
        user = sessions.user[session]
        item_NC = _candidates(catalogue, steps.time[block], rng)
        match = matcher.match(user, item_NC, sessions.now_S3[session])
        utility_NC = matcher.utility(user, match)
        wish_NC = eagerness[block, None] * utility_NC + rng.gumbel(size=item_NC.shape)
        wish_NC[catalogue.launch[item_NC] > steps.time[block, None]] = -np.inf
        chosen = np.arange(len(user)), wish_NC.argmax(axis=1)
        item[block] = item_NC[chosen]
        _keep_chosen(columns, block, match, utility_NC, chosen)
    return item, columns


def _keep_chosen(
    columns: dict[str, FloatArray],
    block: slice,
    match: Match,
    utility_NC: FloatArray,
    chosen: tuple[IntArray, IntArray],
) -> None:
    columns["utility"][block] = utility_NC[chosen]
    columns["visual"][block] = 0.5 * (match.visual + match.visual_now)[chosen]
    columns["words"][block] = 0.5 * (match.words + match.words_now)[chosen]


def _candidates(catalogue: Catalogue, time: IntArray, rng: np.random.Generator) -> IntArray:
    """Draw candidates (N, C) by popularity; the last one was on sale from the first day on."""
    shape = (len(time), _CANDIDATES)
    item_NC = draw_weighted(catalogue.popularity, rng.random(shape))
    evergreen = np.flatnonzero(catalogue.launch <= START)
    item_NC[:, -1] = evergreen[draw_weighted(catalogue.popularity[evergreen], rng.random(len(time)))]
    return item_NC


def draw_weighted(weights: FloatArray, uniform: np.ndarray) -> IntArray:
    """Turn uniform draws of any shape into positions drawn by `weights`."""
    edges = np.cumsum(weights, dtype=np.float64)
    return np.minimum(np.searchsorted(edges, uniform * edges[-1], side="right"), len(weights) - 1)


def _first_showing(steps: _Steps, item: IntArray) -> BoolArray:
    """Return the steps to keep: an item is shown once a session; browsing may come back to it."""
    keep = ~steps.shown
    shown = np.flatnonzero(steps.shown)
    pair = steps.session[shown] * (int(item.max(initial=0)) + 1) + item[shown]
    keep[shown[np.unique(pair, return_index=True)[1]]] = True
    return keep


def _click_probability(logit: FloatArray, shown: BoolArray) -> FloatArray:
    """Return sigmoid(intercept + logit) with the intercept at which impressions have the wanted rate."""
    low, high = -20.0, 20.0
    for _ in range(50):  # bisection
        middle = (low + high) / 2
        rate = float(np.mean(1 / (1 + np.exp(-(logit[shown] + middle)))))
        low, high = (middle, high) if rate < CLICK_RATE else (low, middle)
    return 1 / (1 + np.exp(-(logit + low)))


def _draw_events(steps: _Steps, user: IntArray, item: IntArray, done: BoolArray, seed: int) -> Events:
    """Return clicks seconds after their step, and for some a cart and a purchase before the next step."""
    rng = stream(seed, "events")
    count = len(item)
    delays = np.stack(
        [rng.integers(1 * SECOND, 15 * SECOND, count) + wait * SECOND for wait in (0, 15, 35)], axis=1
    )
    luck = rng.random((count, 2))
    carted = done & (luck[:, 0] < 0.2)
    happens = np.stack([done, carted, carted & (luck[:, 1] < 0.5)], axis=1)
    step, event = np.nonzero(happens)
    time = steps.time[step] + delays[step, event]
    return Events(user[step], item[step], steps.session[step], time, event)


def is_test(time: IntArray) -> BoolArray:
    """Return which times belong to the test period."""
    return time >= TEST_START
