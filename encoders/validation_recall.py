"""The recall that early stopping looks at: held-out pairs against the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from encoders.encoder import Encoder, ProductTable
from encoders.encoding import encode_together, shortened
from encoders.pairs import PairSource
from encoders.products import EVERYTHING, View
from moonrec.nearest import ranks_of_positives

# A held-out search has one answer; behind a purchase many next ones are as good, so the list is longer. Ours.
CUTOFFS = {"searches": 10, "events": 50, "catalogue": 10}


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
        """
        if not self._sources:
            return {}
        vectors_ME = encode_together(encoder, table, device=device, rows=self._rows, view=self._item_view)
        recall = {}
        for source in self._sources:
            pairs, cutoff = source.validation, CUTOFFS[source.name]
            anchors_PE = encode_together(
                encoder, table, device=device, rows=pairs.anchor, view=self._query_view
            )
            for dim in encoder.config.dims:
                ranks = self._ranks(source, shortened(anchors_PE, dim), shortened(vectors_ME, dim))
                whole = dim == encoder.config.dim
                name = f"{source.name}_recall@{cutoff}" + ("" if whole else f"/{dim}")
                recall[name] = float(np.mean(ranks <= cutoff))
                if whole:
                    recall[f"{source.name}_log_rank"] = float(np.mean(np.log(ranks)))
        return recall

    def _ranks(self, source: PairSource, anchors_PE: np.ndarray, vectors_ME: np.ndarray) -> np.ndarray:
        pairs = source.validation
        # What the anchor is or shows is left out of its own ranking.
        own = np.searchsorted(self._rows, pairs.own).clip(max=len(self._rows) - 1)
        excluded = np.where(self._rows[own] == pairs.own, own, -1)
        answers = (np.arange(len(pairs)), np.searchsorted(self._rows, pairs.positive))
        return ranks_of_positives(anchors_PE, lambda: iter([vectors_ME]), answers, excluded)


def score(recall: dict[str, float], start: dict[str, float]) -> float:
    """One number for early stopping: how much smaller the rank of a held-out positive has become.

    It is the logarithm of (geometric mean rank at the start / now), averaged over the sources: every held-out
    pair counts, also those far from the first K, so that a hundred pairs give a usable signal where recall at
    K moves by accident; and sources with easy and hard questions count alike.
    """
    gains = [start[name] - value for name, value in recall.items() if name.endswith("_log_rank")]
    return float(np.mean(gains)) if gains else 0.0
