"""Who shops: users with several tastes each, in looks and in words, and how well an item meets them.

A third of the users go by the picture, a third by the words, a third by both. The visual match is the cosine
of the item's hidden look and the closest of the user's looks; the word match is the weighted sum of the facts
that agree with the closest of the user's wordings. Both are standardised over random pairs of user and item.

Legend: U users, K tastes of a user, V width of the visual style, F word facts, P choices that users make,
C items that each is between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moonrec.simulation.catalogue import BoolArray, Catalogue, FloatArray, IntArray
from moonrec.simulation.seeds import stream
from moonrec.simulation.vocabulary import SHAPES

TASTES = 3
FAVOURITE_SHAPES = 3
USER_KINDS = ("visual", "verbal", "both")
_KIND_WEIGHTS = np.array([[1.0, 0.2], [0.2, 1.0], [0.7, 0.7]], dtype=np.float32)
_FACT_WEIGHTS = np.array([0.8, 0.7, 1.2, 0.9], dtype=np.float32)
"""In the order of `WORD_FACTS`: material, brand, mood, occasion."""


@dataclass(frozen=True)
class Users:
    """All users as columns; `looks_UKV` are unit vectors, `wordings_UKF` codes, `shapes_UK` kinds liked."""

    kind: IntArray
    visual_weight: FloatArray
    word_weight: FloatArray
    looks_UKV: FloatArray
    wordings_UKF: IntArray
    shapes_UK: IntArray
    crowd_pull: FloatArray
    leniency: FloatArray
    activity: FloatArray

    def __len__(self) -> int:
        return len(self.kind)


def user_id(index: int) -> str:
    """Return the id of the user at a position."""
    return f"u{index:06d}"


def draw_users(users: int, catalogue: Catalogue, seed: int) -> Users:
    """Draw `users` users; each taste is the look, or the words, of some item of the catalogue."""
    kind = stream(seed, "user kind").integers(0, len(USER_KINDS), users)
    looks = stream(seed, "looks").integers(0, len(catalogue), (users, TASTES))
    wordings = stream(seed, "wordings").integers(0, len(catalogue), (users, TASTES))
    return Users(
        kind=kind,
        visual_weight=_KIND_WEIGHTS[kind, 0],
        word_weight=_KIND_WEIGHTS[kind, 1],
        looks_UKV=catalogue.visual_style_IV()[looks],
        wordings_UKF=catalogue.words_IF[wordings],
        shapes_UK=stream(seed, "favourites").integers(0, len(SHAPES), (users, FAVOURITE_SHAPES)),
        crowd_pull=stream(seed, "crowd").normal(0.1, 0.15, users).astype(np.float32),
        leniency=stream(seed, "leniency").normal(0.0, 0.25, users).astype(np.float32),
        activity=stream(seed, "activity").gamma(4.0, 0.25, users).astype(np.float32),
    )


@dataclass(frozen=True)
class Match:
    """How items (P, C) meet their users; standardised except for the two shape flags."""

    visual: FloatArray
    words: FloatArray
    visual_now: FloatArray
    words_now: FloatArray
    shape: BoolArray
    shape_now: BoolArray
    crowd: FloatArray


class Matcher:
    """Compares users with items; `now` is the taste that a user follows at the moment."""

    def __init__(self, catalogue: Catalogue, users: Users, seed: int) -> None:
        self._users = users
        self._style_IV = catalogue.visual_style_IV()
        self._words_IF = catalogue.words_IF.astype(np.int8)
        self._wordings_UKF = users.wordings_UKF.astype(np.int8)
        self._shape = catalogue.shape
        log_popularity = np.log(catalogue.popularity)
        self._crowd = (log_popularity - log_popularity.mean()) / log_popularity.std()
        rng = stream(seed, "standardise")
        pairs = rng.integers(0, len(users), 20_000), rng.integers(0, len(catalogue), (20_000, 1))
        visual_PCK, words_PCK = self._per_taste(*pairs)
        self._scale = {
            "visual": (visual_PCK.max(axis=2).mean(), visual_PCK.max(axis=2).std()),
            "words": (words_PCK.max(axis=2).mean(), words_PCK.max(axis=2).std()),
            "visual_now": (visual_PCK.mean(), visual_PCK.std()),
            "words_now": (words_PCK.mean(), words_PCK.std()),
        }

    def match(self, user_P: IntArray, item_PC: IntArray, now_P3: IntArray) -> Match:
        """Compare users with items; `now_P3` says which look, wording and shape they follow at the moment."""
        visual_PCK, words_PCK = self._per_taste(user_P, item_PC)
        look_now = np.take_along_axis(visual_PCK, now_P3[:, None, 0:1], axis=2)[..., 0]
        words_now = np.take_along_axis(words_PCK, now_P3[:, None, 1:2], axis=2)[..., 0]
        liked_PK = self._users.shapes_UK[user_P]
        shape_PC = self._shape[item_PC]
        return Match(
            visual=self._standard("visual", visual_PCK.max(axis=2)),
            words=self._standard("words", words_PCK.max(axis=2)),
            visual_now=self._standard("visual_now", look_now),
            words_now=self._standard("words_now", words_now),
            shape=(shape_PC[..., None] == liked_PK[:, None]).any(axis=2),
            shape_now=shape_PC == np.take_along_axis(liked_PK, now_P3[:, 2:3], axis=1),
            crowd=self._crowd[item_PC],
        )

    def _per_taste(self, user_P: IntArray, item_PC: IntArray) -> tuple[FloatArray, FloatArray]:
        looks_PVK = self._users.looks_UKV[user_P].transpose(0, 2, 1)
        visual_PCK = self._style_IV[item_PC] @ looks_PVK
        same_PCKF = self._words_IF[item_PC][:, :, None] == self._wordings_UKF[user_P][:, None]
        words_PCK = same_PCKF.astype(np.float32) @ _FACT_WEIGHTS
        return visual_PCK, words_PCK

    def _standard(self, name: str, values: FloatArray) -> FloatArray:
        mean, spread = self._scale[name]
        return (values - mean) / spread

    def utility(self, user_P: IntArray, match: Match) -> FloatArray:
        """Return what draws the users to the candidates (P, C), without the hidden quality of the items."""
        look = 0.57 * match.visual + 0.57 * match.visual_now
        words = 0.48 * match.words + 0.43 * match.words_now
        shape = 0.3 * match.shape + 0.5 * match.shape_now
        users = self._users
        return (
            users.visual_weight[user_P, None] * look
            + users.word_weight[user_P, None] * words
            + shape
            + users.crowd_pull[user_P, None] * match.crowd
        )
