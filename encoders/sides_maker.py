"""From planned batches to what the encoder is shown of them.

Everything random is drawn for the whole batch, by seed, epoch and step, and then shared out: several
processes show what one would.

Shapes: P pairs and H hard negatives of this process, M query modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from encoders.filtered_pairs import FilteredPairs
from encoders.objective.labels import ItemLabels, PairLabels
from encoders.objective.sample_filter import margin_of
from encoders.pairs import Pairs
from encoders.sampling import PlannedBatch
from encoders.sides import JointSides, PairSides, Sides
from encoders.training_round import Round

if TYPE_CHECKING:
    from encoders.training_loop import Trainer


class SidesMaker:
    """Makes the sides of a round's batches.

    Attributes:
        filtered: what the sample filter did in the epoch at hand.
    """

    def __init__(self, trainer: Trainer, round_: Round) -> None:
        self._products = trainer.products
        self._seed = trainer.seed
        self._processes = trainer.accelerator.num_processes
        self._process = trainer.accelerator.process_index
        self._round = round_
        self._users = 1 + max(int(source.training.user.max(initial=-1)) for source in round_.sources)
        table = trainer.products.table
        self._two_sided = table.has_image() & table.has_text()
        self.filtered = FilteredPairs()

    def sides(self, batch: PlannedBatch, epoch: int, number: int) -> Sides:
        """This process's share of a batch."""
        rng = np.random.default_rng((self._seed, 8, epoch, number))
        draw, source = self._products.variants.draw, self._round.sources[batch.source]
        pairs = source.training[batch.rows]
        hard_PC = np.full((len(pairs), 0), -1)
        if self._round.hard:
            hard_PC = self._round.hard[batch.source].rows(batch.rows, epoch, number, self._round.hard_count)
        asked_PM = self._round.joint.asked(pairs, rng) if self._round.joint else None
        anchor_P, positive_P = draw(pairs.anchor, rng), draw(pairs.positive, rng)
        shown_PC = np.where(hard_PC < 0, -1, draw(hard_PC.clip(0).ravel(), rng).reshape(hard_PC.shape))
        own = np.array_split(np.arange(len(pairs)), self._processes)[self._process]
        pairs, hard_H = pairs[own], hard_PC[own].ravel()
        shown_H = shown_PC[own].ravel()[hard_H >= 0]
        hard_H = hard_H[hard_H >= 0]
        labels = PairLabels(self._items(pairs.positive), self._items(pairs.own), self._groups(pairs))
        hard = self._items(hard_H)
        if self._round.joint is None or asked_PM is None:
            views = batch.query_view, batch.item_view
            return PairSides(anchor_P[own], positive_P[own], shown_H, *views, labels, hard)
        own_J, of_item_J = self._two_sided_items(
            np.concatenate([positive_P[own], shown_H]), np.concatenate([pairs.positive, hard_H])
        )
        joint = self._round.joint
        rows = batch.rows[own]

        def record(asked: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> None:
            self.filtered.add(batch.source, [rows[pair_A] for pair_A in asked], weights)

        return JointSides(
            anchor_P[own], positive_P[own], shown_H, labels, hard,
            asked=[np.flatnonzero(asked_P) for asked_P in asked_PM[own].T],
            own_J=own_J if joint.config.intra_weight else own_J[:0],
            own_labels=self._items(of_item_J if joint.config.intra_weight else of_item_J[:0]),
            margin=margin_of(epoch) if joint.config.filter else None,
            record=record,
        )  # fmt: skip

    def _items(self, rows: np.ndarray) -> ItemLabels:
        return ItemLabels.of_rows(rows, self._products.product_M, self._products.text_M)

    def _groups(self, pairs: Pairs) -> torch.Tensor:
        """Whose answers belong together: those of a user's behaviour, or of equal queries."""
        asked = self._products.query_R[pairs.anchor] + self._users
        return torch.from_numpy(np.where(pairs.user >= 0, pairs.user, asked))

    def _two_sided_items(self, shown: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows to align, those with a picture and words, once each, and the items that they show."""
        shown, first = np.unique(shown, return_index=True)
        assert self._round.joint is not None
        both = self._two_sided[shown] & ~self._round.joint.held_out_M[items[first]]
        return shown[both], items[first][both]
