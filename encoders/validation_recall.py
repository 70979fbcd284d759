"""The recall that early stopping looks at: held-out pairs against the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from encoders.compact import CompactEncoder
from encoders.encoding import encode
from encoders.features import ProductFeatures
from encoders.pairs import PairSource
from moonrec.nearest import ranks_of_positives

# A held-out search has one answer; behind a purchase many next ones are as good, so the list is longer. Ours.
CUTOFFS = {"searches": 10, "events": 50}


class ValidationRecall:
    """Share of held-out pairs whose positive is among the first K of the catalogue, per source of pairs.

    Args:
        sources: pairs with their held-out part.
        items: number of catalogue rows, which come first in the feature table.
        candidates: the ranking is among this many items at most; the positives are always in it.
        seed: of the choice of candidates.
    """

    def __init__(self, sources: Sequence[PairSource], *, items: int, candidates: int, seed: int) -> None:
        self._sources = [source for source in sources if len(source.validation)]
        positives = np.concatenate([np.zeros(0, np.int64), *(s.validation.positive for s in self._sources)])
        rows = np.random.default_rng((seed, 4)).permutation(items)[:candidates]
        self._rows = np.union1d(rows, positives)

    def __call__(
        self, encoder: CompactEncoder, features: ProductFeatures, device: torch.device
    ) -> dict[str, float]:
        """`<source>_recall@K` and `<source>_log_rank`; empty when no pair was held out."""
        if not self._sources:
            return {}
        vectors_ME, _ = encode(encoder, features, device=device, rows=self._rows)
        recall = {}
        for source in self._sources:
            pairs = source.validation
            anchors_PE, _ = encode(encoder, features, device=device, rows=pairs.anchor)
            # What the anchor is or shows is left out of its own ranking.
            own = np.searchsorted(self._rows, pairs.own).clip(max=len(self._rows) - 1)
            excluded = np.where(self._rows[own] == pairs.own, own, -1)
            answers = (np.arange(len(pairs)), np.searchsorted(self._rows, pairs.positive))
            ranks = ranks_of_positives(anchors_PE, lambda: iter([vectors_ME]), answers, excluded)
            cutoff = CUTOFFS[source.name]
            recall[f"{source.name}_recall@{cutoff}"] = float(np.mean(ranks <= cutoff))
            recall[f"{source.name}_log_rank"] = float(np.mean(np.log(ranks)))
        return recall


def score(recall: dict[str, float], start: dict[str, float]) -> float:
    """One number for early stopping: how much smaller the rank of a held-out positive has become.

    It is the logarithm of (geometric mean rank at the start / now), averaged over the sources: every held-out
    pair counts, also those far from the first K, so that a hundred pairs give a usable signal where recall at
    K moves by accident; and sources with easy and hard questions count alike.
    """
    gains = [start[name] - value for name, value in recall.items() if name.endswith("_log_rank")]
    return float(np.mean(gains)) if gains else 0.0
