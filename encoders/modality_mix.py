"""In which modalities the two sides of a pair are shown: the combinations of MOON's post-training.

Round 1 pairs a query in one form with an item in another, in the nine combinations and the proportions of
MOON Embedding (https://arxiv.org/abs/2511.11305); round 2 always shows the item whole (MOON,
https://arxiv.org/abs/2508.11999). How often the query is a picture, words, or both is the modality mix.

Every product of a batch is shown through the same view, so that a candidate's modality never tells which one
is the answer.

Shapes: R feature rows (the catalogue's, then the queries'), P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from encoders.pairs import Pairs
from encoders.products import EVERYTHING, IMAGE_ONLY, RICHER_TEXT, TEXT_ONLY, TITLE_ONLY, Aspect, View
from moonrec.errors import UserError
from moonrec.tables import Table

TITLE_AND_IMAGE: View = TITLE_ONLY | IMAGE_ONLY
MODALITIES = ("image", "text", "both")
# How a query of each modality is shown where one batch holds all of them.
MODALITY_VIEWS: tuple[View, View, View] = (IMAGE_ONLY, TEXT_ONLY, EVERYTHING)
# With fewer pairs there is no negative in the batch.
_FEWEST_PAIRS = 2


@dataclass(frozen=True)
class Combination:
    """How a query and an item are shown, and how often among those with the same query modality."""

    query: View
    item: View
    weight: float

    @property
    def modality(self) -> str:
        """The query's modality: one of `MODALITIES`."""
        if self.query == IMAGE_ONLY:
            return "image"
        return "both" if Aspect.IMAGE in self.query else "text"


# Weights: billions of pairs of the paper's first round.
ROUND_ONE = (
    Combination(TITLE_ONLY, RICHER_TEXT, 0.2),
    Combination(TITLE_ONLY, IMAGE_ONLY, 0.2),
    Combination(TITLE_ONLY, TITLE_AND_IMAGE, 0.2),
    Combination(TITLE_ONLY, EVERYTHING, 0.5),
    Combination(IMAGE_ONLY, IMAGE_ONLY, 0.2),
    Combination(IMAGE_ONLY, TITLE_AND_IMAGE, 0.5),
    Combination(IMAGE_ONLY, EVERYTHING, 0.2),
    Combination(TITLE_AND_IMAGE, TITLE_AND_IMAGE, 0.5),
    Combination(EVERYTHING, EVERYTHING, 0.1),
)
ROUND_TWO = (
    Combination(IMAGE_ONLY, EVERYTHING, 1.0),
    Combination(TEXT_ONLY, EVERYTHING, 1.0),
    Combination(EVERYTHING, EVERYTHING, 1.0),
)


@dataclass(frozen=True)
class ModalityMix:
    """Shares of pictures, words, and both among the queries; only their proportion counts (MOON: 12:3:2)."""

    image: float = 12.0
    text: float = 3.0
    both: float = 2.0

    @classmethod
    def parse(cls, text: str) -> ModalityMix:
        """Read `image:text:both`, such as `12:3:2`.

        Raises:
            UserError: not three numbers of at least 0, of which one is above 0.
        """
        try:
            image, words, both = (float(part) for part in text.split(":"))
        except ValueError:
            image = words = both = math.nan
        shares = (image, words, both)
        if not all(0 <= share < math.inf for share in shares) or not any(shares):
            raise UserError(
                f"--modality-mix {text!r}: expected the shares of queries shown as image:text:both, three "
                "numbers of at least 0 and not all 0, such as 12:3:2"
            )
        return cls(*shares)

    def share(self, modality: str) -> float:
        """The share of one of `MODALITIES`."""
        return {"image": self.image, "text": self.text, "both": self.both}[modality]

    def chances(self) -> tuple[float, float, float]:
        """Where one batch holds all modalities: the chance of a query to be shown in each one that it has.

        The modality with the largest share is always shown.
        """
        largest = max(self.image, self.text, self.both)
        return self.image / largest, self.text / largest, self.both / largest


# Every query in every modality that it has.
EVEN = ModalityMix(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Contents:
    """What each feature row has to show: bool arrays of shape (R,)."""

    has_image: np.ndarray
    has_text: np.ndarray
    has_title: np.ndarray

    @classmethod
    def of(cls, has_image: np.ndarray, has_text: np.ndarray, items: Table) -> Contents:
        """Of usable pictures and words per feature row; titles come from the table, a query's text is one.

        Args:
            has_image, has_text: (R,), the catalogue's rows first.
            items: the catalogue.
        """
        titles = pc.utf8_trim_whitespace(items.read(["title"]).column("title"))
        titled = pc.fill_null(pc.not_equal(titles, ""), False).to_numpy()
        has_title = has_text.copy()
        has_title[: len(titled)] &= titled
        return cls(has_image, has_text, has_title)

    def shows_all(self, view: View) -> np.ndarray:
        """(R,) whether a row has the picture, if the view shows it, and the words, if it shows any."""
        shown = self._words(view) if view & TEXT_ONLY else np.ones(len(self.has_image), bool)
        return shown & self.has_image if Aspect.IMAGE in view else shown

    def shows_any(self, view: View) -> np.ndarray:
        """(R,) whether anything of a row is left in the view."""
        shown = self._words(view) if view & TEXT_ONLY else np.zeros(len(self.has_image), bool)
        return shown | self.has_image if Aspect.IMAGE in view else shown

    def _words(self, view: View) -> np.ndarray:
        return self.has_title if view & TEXT_ONLY == TITLE_ONLY else self.has_text


@dataclass(frozen=True)
class Pool:
    """The pairs (numbers within their source) that a combination can show, and its share of the batches."""

    combination: Combination
    rows: np.ndarray
    share: float


@dataclass(frozen=True)
class SourcePools:
    """What one source of pairs is drawn from.

    `pairs` counts the source's pairs, `hidden` those that no combination can show; `missing` names the
    modalities that the mix asks for and no pair has: their share went to the others.
    """

    pools: tuple[Pool, ...]
    pairs: int
    hidden: int
    missing: tuple[str, ...]

    def shares(self) -> dict[str, float]:
        """Share of the batches by the query's modality, for the report."""
        return {
            name: sum(pool.share for pool in self.pools if pool.combination.modality == name)
            for name in MODALITIES
        }


def pools_of(
    pairs: Pairs, contents: Contents, combinations: Sequence[Combination], mix: ModalityMix
) -> SourcePools:
    """Which pairs each combination can show, and how often it is drawn.

    A query must have every modality of its view (a picture without words is no query of both), an item
    something in its. Within a modality the combinations share as their weights say; the modalities share as
    the mix says. What has no pairs, or a single one, leaves its share to the others.

    Args:
        pairs: the source's training pairs.
        contents: of the feature rows that the pairs point at.
        combinations: of the round.
        mix: shares of the query modalities.
    """
    everything = np.arange(len(pairs))
    reached = np.zeros(len(pairs), bool)
    found: list[tuple[Combination, np.ndarray]] = []
    for combination in combinations:
        if not mix.share(combination.modality):
            continue
        fits = contents.shows_all(combination.query)[pairs.anchor]
        fits &= contents.shows_any(combination.item)[pairs.positive]
        if np.count_nonzero(fits) >= _FEWEST_PAIRS:
            reached |= fits
            # Where nothing lacks anything, as in most catalogues, the nine pools are one array.
            found.append((combination, everything if fits.all() else np.flatnonzero(fits)))
    weight: dict[str, float] = {}
    for combination, _ in found:
        weight[combination.modality] = weight.get(combination.modality, 0.0) + combination.weight
    total = sum(mix.share(modality) for modality in weight)
    pools = tuple(
        Pool(
            combination,
            rows,
            mix.share(combination.modality) / total * combination.weight / weight[combination.modality],
        )
        for combination, rows in found
    )
    missing = tuple(name for name in MODALITIES if mix.share(name) and name not in weight)
    return SourcePools(pools, len(pairs), int(np.count_nonzero(~reached)), missing)
