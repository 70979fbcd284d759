"""Where the candidates of a step come from, and how often each item is expected among them.

A batch's targets are drawn in proportion to how often items are taken, so that popular items are negatives
too often, and rare ones hardly ever: the softmax divides each candidate's weight by how many times its item
is expected in the step (the logQ correction; Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for
Large Corpus Item Recommendations"). A share of uniform draws over all trained items shows the model the rare
ones, too (mixed negative sampling; Yang et al. 2020). Items that training never saw are never negatives:
nothing can be known of them yet.

Legend: C items by their code, M uniform draws of a step, B rows of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    def log_expected(self, rows: int) -> NDArray[np.float32]:
        """log of how many times each item is expected among a row's negatives, (C,) float32.

        They are the targets of the other rows and the uniform draws. Items that are never drawn: 0.
        """
        share_C = self.taken_C / max(1, int(self.taken_C.sum()))
        expected_C = (rows - 1) * share_C
        expected_C[self.code_T] += self._uniform(rows) / max(1, len(self.code_T))
        return np.log(np.where(expected_C > 0, expected_C, 1.0)).astype(np.float32)

    def _uniform(self, rows: int) -> int:
        return round(rows * self.uniform_share / (1 - self.uniform_share))
