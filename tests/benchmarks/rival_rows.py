"""The columns that torch-rechub's models read, from the files that `rival_data.py` wrote.

Runs in the environment that has torch-rechub.

Legend: R rows, N items (row 0 is padding), L history, D width of the frozen vectors, K negatives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of its examples: how often an item is drawn goes with this power of how often it was taken.
_POWER = 0.75
# 4,096 histories of 50 vectors of 128 take 100 MB.
_ROWS = 4_096

Columns = dict[str, NDArray[Any]]


class Items:
    """What is known of the catalogue.

    Args:
        folder: see `rival_data.py`.
        content: whether the frozen vectors are wanted.
        corrected: whether probabilities are those of being drawn into a batch, and not of its examples.
    """

    def __init__(self, folder: Path, content: bool, corrected: bool) -> None:
        found = read(folder / "items.npz")
        weight_N = found["taken"] ** (1.0 if corrected else _POWER)
        self.probability_N = np.append(0, weight_N / weight_N.sum())
        self.vector_ND = None
        if content:
            vector_ND = found["vector"]
            self.vector_ND = np.concatenate([np.zeros_like(vector_ND[:1]), vector_ND])

    def __len__(self) -> int:
        return len(self.probability_N)

    @property
    def dimension(self) -> int:
        """Width of the frozen vectors, 0 without."""
        return 0 if self.vector_ND is None else self.vector_ND.shape[1]

    def training_rows(self, table: Columns, negatives: int, seed: int) -> Columns:
        """All columns of training rows: with the target's, and items drawn beforehand, (R, K)."""
        items = np.random.default_rng(seed).choice(
            len(self), (len(table["item"]), negatives), p=self.probability_N
        )
        return self.users(table) | self.targets(table["item"]) | {"negatives": items}

    def targets(self, item_R: NDArray[np.integer]) -> Columns:
        """The item tower's columns."""
        columns: Columns = {"item": item_R, "probability": self.probability_N[item_R].astype(np.float32)}
        return columns if self.vector_ND is None else columns | {"item_vector": self.vector_ND[item_R]}

    def users(self, table: Columns) -> Columns:
        """The user tower's columns; with frozen vectors also the mean of the history's."""
        columns: Columns = {"user": table["user"], "history": table["history"]}
        if self.vector_ND is None:
            return columns
        history_RL = table["history"]
        mean_RD = np.empty((len(history_RL), self.dimension), np.float32)
        for first in range(0, len(history_RL), _ROWS):
            code_BL = history_RL[first : first + _ROWS]
            length_B = np.maximum(np.count_nonzero(code_BL, axis=1), 1)
            mean_RD[first : first + _ROWS] = self.vector_ND[code_BL].sum(axis=1) / length_B[:, None]
        return columns | {"history_vector": mean_RD}


def read(path: Path) -> Columns:
    """The arrays of a file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
