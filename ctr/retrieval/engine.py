"""Training in one CPU process: a whole batch at once, since each row's negatives are the others' targets.

The same few methods as the engine for several processes (ctr/engines/distributed.py), and the same
mathematics: row-wise Adagrad on the rows of the tables that were touched, Adam on all else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ctr.engines.local_state import LocalState
from ctr.engines.ranks import Ranks
from ctr.engines.rowwise_adagrad import RowwiseAdagrad
from ctr.engines.slice_workers import FlatAdam
from ctr.layers.id_embeddings import TABLE_OF
from ctr.model import StepOutput
from ctr.retrieval.batch import RetrievalBatch
from ctr.retrieval.model import TwoTowers

BuildBatch = Callable[[], RetrievalBatch]


class WholeBatches(LocalState):
    """Trains two towers in this process.

    Args:
        model: the model; its weights are updated in place.
        learning_rate: of the dense parts (Adam).
        sparse_learning_rate: of the tables (row-wise Adagrad).
    """

    local = True

    def __init__(self, model: TwoTowers, learning_rate: float, sparse_learning_rate: float) -> None:
        self.ranks = Ranks()
        self._model = model
        tables = model.tables()
        held = {id(table) for table in tables.values()}
        dense = [value for value in model.parameters() if id(value) not in held]
        super().__init__(model, FlatAdam(dense, learning_rate), RowwiseAdagrad(tables, sparse_learning_rate))

    def steps(self, batches: Iterable[Iterable[BuildBatch]]) -> Iterator[StepOutput]:
        """Update with one batch after the other; yields loss, hits and ones, as `RetrievalTask` does."""
        self._model.train()
        with ThreadPoolExecutor(1) as pool:
            # The next batch is gathered while this one computes.
            waiting = (pool.submit(build) for parts in batches for build in parts)
            batch = next(waiting, None)
            while batch is not None:
                following = next(waiting, None)
                yield self._step(batch.result())
                batch = following

    def _step(self, batch: RetrievalBatch) -> StepOutput:
        assert batch.local is not None
        embedded = {name: value.requires_grad_() for name, value in self._model.look_up(batch).items()}
        user_BD = self._model.users(batch, embedded)
        item_CD = self._model.candidates(batch, embedded)
        loss, first_B = self._model.softmax(user_BD, item_CD, batch)
        leaves = [*embedded.values(), *self._adam.parameters]
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
        by_table: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for name, gradient in zip(embedded, gradients, strict=False):
            by_table[TABLE_OF.get(name, name)].append((batch.local[name], gradient))
        self._adam.step([self._adam.gradient(gradients[len(embedded) :])])
        self._adagrad.step(by_table)
        return loss.detach(), first_B, torch.ones_like(first_B)

    def slice_rows(self, rows: int) -> int:
        """All of them."""
        return rows
