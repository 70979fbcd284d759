"""Where the candidates of a step come from, and how often each item is expected among them.

A batch's targets are drawn in proportion to how often items are taken, so that popular items are negatives
too often, and rare ones hardly ever: the softmax divides each candidate's weight by how many times its item
is expected in the step (the logQ correction; Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for
Large Corpus Item Recommendations"). A share of uniform draws over all trained items shows the model the rare
ones, too (mixed negative sampling; Yang et al. 2020). Items that training never saw are never negatives:
nothing can be known of them yet.

Legend: C items by their code, M uniform draws of a step, K items, B rows of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_STREAM = 7


@dataclass(frozen=True)
class Negatives:
    """Uniform draws, and expected counts.

    Attributes:
        taken_C: how often each item is a training target.
        code_T: the items that training knows, from which is drawn.
        uniform_share: share of uniform draws among all negatives, below 1.
        seed: of the draws.
    """

    taken_C: NDArray[np.int64]
    code_T: NDArray[np.int64]
    uniform_share: float
    seed: int

    @classmethod
    def of(
        cls, item_R: NDArray[np.integer], taken_C: NDArray[np.int64], uniform_share: float, seed: int
    ) -> Negatives:
        """Over the items that are a training target at least once.

        Args:
            item_R: the training targets. The draws depend on their order, not on that of the codes, which
                later rows have a say in.
            taken_C, uniform_share, seed: see above.
        """
        _, first = np.unique(item_R, return_index=True)
        return cls(taken_C, item_R[np.sort(first)].astype(np.int64), uniform_share, seed)

    def draw(self, step: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The uniform draws of a step.

        Returns:
            Item codes (M,), and how many of them go with each of the `rows` rows.
        """
        wanted = self._uniform(rows)
        random = np.random.default_rng([self.seed, _STREAM, step])
        places = np.arange(rows + 1) * wanted // rows
        return self.code_T[random.integers(0, len(self.code_T), wanted)], np.diff(places)

    def log_expected(self, code_K: NDArray[np.int64], rows: int) -> NDArray[np.float32]:
        """log of how many times items are expected among a row's negatives, (K,) float32.

        They are the targets of the other rows and the uniform draws.

        Args:
            code_K: items that training knows: the catalogue may be far larger than a step's candidates.
            rows: of the step.
        """
        expected_K = (rows - 1) * (self.taken_C[code_K] / self._targets)
        return np.log(expected_K + self._uniform(rows) / len(self.code_T)).astype(np.float32)

    @cached_property
    def _targets(self) -> int:
        return int(self.taken_C.sum())

    def _uniform(self, rows: int) -> int:
        return round(rows * self.uniform_share / (1 - self.uniform_share))
