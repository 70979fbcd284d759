"""The joint round: which pairs it trains on, and in which modalities each query is shown (MOON2.0,
https://arxiv.org/abs/2511.12449).

One batch carries every query as a picture, as words and as both, as far as it has them; with a modality mix
other than even, the rarer modalities are shown for a share of the queries only (ours).

Shapes: P pairs, R feature rows; M query modalities, or catalogue rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from encoders.modality_mix import (
    MODALITIES,
    MODALITY_VIEWS,
    Combination,
    Contents,
    ModalityMix,
    Pool,
    SourcePools,
)
from encoders.objective.config import JointConfig
from encoders.pairs import Pairs
from encoders.products import EVERYTHING

_WHOLE = Combination(EVERYTHING, EVERYTHING, 1.0)
_FEWEST_PAIRS = 2


@dataclass(frozen=True)
class JointRound:
    """What makes a round joint.

    Attributes:
        config: the parts of the loss.
        contents: what each feature row has.
        mix: how often a query is shown in each modality.
        held_out_M: catalogue rows whose picture is never aligned with their words: they tell when to stop.
    """

    config: JointConfig
    contents: Contents
    mix: ModalityMix
    held_out_M: np.ndarray

    @cached_property
    def _shown_RM(self) -> np.ndarray:
        """In which modalities each feature row can be shown as a query, of those that the mix asks for."""
        shown = [self.contents.shows_all(view) for view in MODALITY_VIEWS]
        return np.stack(shown, 1) & (np.array(self.mix.chances()) > 0)

    def has(self, pairs: Pairs) -> np.ndarray:
        """(P, M) in which modalities a pair's query can be shown, of those that the mix asks for."""
        return self._shown_RM[pairs.anchor]

    def asked(self, pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
        """(P, M) in which modalities each query is shown; in one at least, the likeliest that it has."""
        has_PM, chance_M = self.has(pairs), np.array(self.mix.chances())
        asked_PM = has_PM & (rng.random(has_PM.shape) < chance_M)
        none_P = ~asked_PM.any(1) & has_PM.any(1)
        asked_PM[np.flatnonzero(none_P), self._likeliest(has_PM)[none_P]] = True
        return asked_PM

    def pools(self, pairs: Pairs) -> SourcePools:
        """The pairs of a source that can be shown, as one pool."""
        has_PM = self.has(pairs)
        fits_P = has_PM.any(1) & self.contents.shows_any(EVERYTHING)[pairs.positive]
        rows = np.flatnonzero(fits_P)
        pools = (Pool(_WHOLE, rows, 1.0),) if len(rows) >= _FEWEST_PAIRS else ()
        missing = tuple(
            name
            for name, has_P in zip(MODALITIES, has_PM.T, strict=True)
            if self.mix.share(name) and not (has_P & fits_P).any()
        )
        return SourcePools(pools, len(pairs), len(pairs) - len(rows), missing)

    def shares(self, pairs: Pairs) -> dict[str, float]:
        """Which share of the queries that a source's batches show is of each modality, on average."""
        has_PM, chance_M = self.has(pairs), np.array(self.mix.chances())
        expected_PM = has_PM * chance_M
        rows = np.flatnonzero(has_PM.any(1))
        expected_PM[rows, self._likeliest(has_PM)[rows]] += (1 - expected_PM[rows]).prod(1)
        expected_M = expected_PM.sum(0)
        return dict(zip(MODALITIES, (expected_M / max(expected_M.sum(), 1e-9)).tolist(), strict=True))

    def _likeliest(self, has_PM: np.ndarray) -> np.ndarray:
        """(P,) the modality in which a query is shown if none was drawn for it."""
        return np.where(has_PM, np.array(self.mix.chances()), -1).argmax(1)
