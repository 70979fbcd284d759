"""The recall that early stopping looks at: held-out pairs against the catalogue.

Beside it stands how well each query modality does alone, so that one that wins at another's cost is seen
(MOON2.0, https://arxiv.org/abs/2511.12449, opens with that).

Shapes: P held-out pairs of a source, M candidates of the ranking, A anchors, E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from encoders.encoder import Encoder, ProductTable
from encoders.encoding import encode_together, shortened
from encoders.pairs import PairSource
from encoders.products import EVERYTHING, IMAGE_ONLY, TEXT_ONLY, View
from moonrec.nearest import ranks_of_positives

# A held-out search has one answer; behind a purchase many next ones are as good, so the list is longer. Ours.
CUTOFFS = {"searches": 10, "events": 50, "catalogue": 10}
# Of fewer pairs, recall moves by more than .05 at once and tells nothing of a modality. Ours.
FEWEST_PAIRS = 20


# What a round is judged by: all processes call it; see `ValidationRecall.__call__` for what it gives.
Validate = Callable[[Encoder, ProductTable, torch.device], dict[str, float]]


class ValidationRecall:
    """Share of held-out pairs whose positive is among the first K of the catalogue, per source of pairs.

    Args:
        sources: pairs with their held-out part.
        items: number of catalogue rows, which come first in the table.
        candidates: the ranking is among this many items at most; the positives are always in it.
        seed: of the choice of candidates.
        query_view, item_view: what anchors and catalogue show.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        *,
        items: int,
        candidates: int,
        seed: int,
        query_view: View = EVERYTHING,
        item_view: View = EVERYTHING,
    ) -> None:
        self._sources = [source for source in sources if len(source.validation)]
        positives = np.concatenate([np.zeros(0, np.int64), *(s.validation.positive for s in self._sources)])
        rows = np.random.default_rng((seed, 4)).permutation(items)[:candidates]
        self._rows = np.union1d(rows, positives)
        self._query_view, self._item_view = query_view, item_view

    def __call__(self, encoder: Encoder, table: ProductTable, device: torch.device) -> dict[str, float]:
        """All processes call it, and share the work.

        Returns:
            Empty when no pair was held out, else per source `<source>_recall@K` and `<source>_log_rank` of
            the whole vectors, and `<source>_recall@K/D` of each shorter Matryoshka prefix of D numbers.

            Where both sides are shown whole, also `<source>_<modality>_recall@K` of the whole vectors: over
            the pairs whose anchor has a picture (`image`: only that is shown), words (`text`), or both
            (`both`), against the catalogue as before. One that fewer than 20 pairs have is not reported. What
            all pairs have alone, as the picture in searches by photo, equals `<source>_recall@K`.
        """
        if not self._sources:
            return {}

        def encoded(rows: np.ndarray, view: View) -> np.ndarray:
            return encode_together(encoder, table, device=device, rows=rows, view=view)

        vectors_ME = encoded(self._rows, self._item_view)
        has_image, has_text = table.has_image(), table.has_text()
        recall: dict[str, float] = {}
        for source in self._sources:
            anchors = source.validation.anchor
            anchors_PE = encoded(anchors, self._query_view)
            whole_P = self._ranks(source, anchors_PE, vectors_ME)
            recall[_name(source)] = _share(source, whole_P)
            recall[f"{source.name}_log_rank"] = float(np.mean(np.log(whole_P)))
            for dim in encoder.config.dims:
                if dim != encoder.config.dim:
                    ranks_P = self._ranks(source, shortened(anchors_PE, dim), shortened(vectors_ME, dim))
                    recall[f"{_name(source)}/{dim}"] = _share(source, ranks_P)
            if self._query_view == self._item_view == EVERYTHING:
                shown_P = has_image[anchors], has_text[anchors]
                recall |= self._by_modality(source, *shown_P, whole_P, vectors_ME, encoded)
        return recall

    def _by_modality(
        self,
        source: PairSource,
        image_P: np.ndarray,
        text_P: np.ndarray,
        whole_P: np.ndarray,
        vectors_ME: np.ndarray,
        encoded: Callable[[np.ndarray, View], np.ndarray],
    ) -> dict[str, float]:
        """Recall per query modality; anchors that have but one are not encoded again: they were shown so."""
        both_P = image_P & text_P
        rows, place = np.unique(source.validation.anchor[both_P], return_inverse=True)
        found = {}
        for modality, has_P, view in (
            ("image", image_P, IMAGE_ONLY),
            ("text", text_P, TEXT_ONLY),
            ("both", both_P, EVERYTHING),
        ):
            if np.count_nonzero(has_P) < FEWEST_PAIRS:
                continue
            ranks_P = whole_P
            if view != EVERYTHING and len(rows):
                vectors_AE = encoded(rows, view)
                ranks_P = whole_P.copy()
                ranks_P[both_P] = self._ranks(source, vectors_AE[place], vectors_ME, both_P)
            found[_name(source, modality)] = _share(source, ranks_P[has_P])
        return found

    def _ranks(
        self,
        source: PairSource,
        anchors_PE: np.ndarray,
        vectors_ME: np.ndarray,
        of_P: np.ndarray | slice = slice(None),
    ) -> np.ndarray:
        """Ranks (P,) of the positives of all held-out pairs, or of some."""
        own_P, positive_P = source.validation.own[of_P], source.validation.positive[of_P]
        # What the anchor is or shows is left out of its own ranking.
        own = np.searchsorted(self._rows, own_P).clip(max=len(self._rows) - 1)
        excluded = np.where(self._rows[own] == own_P, own, -1)
        answers = (np.arange(len(own_P)), np.searchsorted(self._rows, positive_P))
        return ranks_of_positives(anchors_PE, lambda: iter([vectors_ME]), answers, excluded)


def _name(source: PairSource, modality: str = "") -> str:
    return "_".join(filter(None, (source.name, modality, f"recall@{CUTOFFS[source.name]}")))


def _share(source: PairSource, ranks_P: np.ndarray) -> float:
    return float(np.mean(ranks_P <= CUTOFFS[source.name]))


def score(recall: dict[str, float], start: dict[str, float]) -> float:
    """One number for early stopping: how much smaller the rank of a held-out positive has become.

    It is the logarithm of (geometric mean rank at the start / now), averaged over the sources: every held-out
    pair counts, also those far from the first K, so that a hundred pairs give a usable signal where recall at
    K moves by accident; and sources with easy and hard questions count alike.
    """
    gains = [start[name] - value for name, value in recall.items() if name.endswith("_log_rank")]
    return float(np.mean(gains)) if gains else 0.0
