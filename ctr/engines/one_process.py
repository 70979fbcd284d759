"""The engine for one CPU process: slices of a batch in threads, and updates of the touched rows only.

Tables are not autograd's business here: what was looked up are leaves, and row-wise Adagrad updates the rows
that were touched. The engine has the same few methods as the one for several processes
(ctr/engines/distributed.py), and the same mathematics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ctr.data.batch import Batch
from ctr.engines.engine import BuildSlice, joined
from ctr.engines.local_state import LocalState
from ctr.engines.ranks import Ranks
from ctr.engines.rowwise_adagrad import RowwiseAdagrad
from ctr.engines.slice_workers import FlatAdam, SliceWorkers
from ctr.layers.id_embeddings import TABLE_OF
from ctr.model import CtrModel, ScaledLoss, StepOutput


class OneProcessScorer:
    """Scores with a model in this process.

    Args:
        model: the model.
    """

    local = True

    def __init__(self, model: CtrModel) -> None:
        self.ranks = Ranks()
        self._model = model

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Logits (B,), on the CPU."""
        self._model.eval()
        return self._model.local(batch)


class _Slice(NamedTuple):
    """What a slice leaves: its output, the rows of each look-up and their gradients, those of all else."""

    output: StepOutput
    rows: dict[str, Tensor]
    of_rows: dict[str, Tensor]
    of_dense: Tensor


class OneProcess(LocalState, OneProcessScorer):
    """Trains a model in this process, and scores with it.

    Args:
        model: the model; its weights are updated in place.
        learning_rate: of the dense parts (Adam).
        sparse_learning_rate: of the tables (row-wise Adagrad).
        workers: compute the slices of a batch; a thread per core when None.
    """

    def __init__(
        self,
        model: CtrModel,
        learning_rate: float,
        sparse_learning_rate: float,
        workers: SliceWorkers | None = None,
    ) -> None:
        OneProcessScorer.__init__(self, model)
        self._workers = SliceWorkers() if workers is None else workers
        self._loss = ScaledLoss()
        # What was pretrained is frozen, and stays out.
        dense = [value for value in model.ranker.parameters() if value.requires_grad]
        LocalState.__init__(
            self, model, FlatAdam(dense, learning_rate), RowwiseAdagrad(model.tables(), sparse_learning_rate)
        )

    def slice_rows(self, rows: int) -> int:
        """See `ctr.engines.engine.Trainable`."""
        return self._workers.slice_rows(rows)

    def steps(self, batches: Iterable[Iterable[BuildSlice]]) -> Iterator[StepOutput]:
        """Update with one batch after the other; yields loss, logits from before the update and labels."""
        self._model.train()
        for slices in self._workers.steps(batches, self._gradients, self._update):
            yield joined([part.output for part in slices])

    def compile(self, batch: Batch) -> None:
        """Compile the kernels of a step on a small batch (a second or two); nothing is updated."""
        part = self._gradients(batch)
        none = {name: (rows[:0], part.of_rows[name][:0]) for name, rows in part.rows.items()}
        self._adagrad.step({TABLE_OF.get(name, name): [pair] for name, pair in none.items()})

    def _gradients(self, batch: Batch) -> _Slice:
        assert batch.local is not None
        embedded = {name: value.requires_grad_() for name, value in self._model.look_up(batch).items()}
        logit_B = self._model.local(batch, embedded)
        loss = self._loss(logit_B, batch)
        leaves = [*embedded.values(), *self._adam.parameters]
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
        of_dense = self._adam.gradient(gradients[len(embedded) :])
        output = (loss.detach(), logit_B.detach(), batch.label_B)
        return _Slice(output, batch.local, dict(zip(embedded, gradients, strict=False)), of_dense)

    def _update(self, slices: list[_Slice]) -> list[Callable[[], None]]:
        by_table: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for part in slices:
            for name, gradient in part.of_rows.items():
                by_table[TABLE_OF.get(name, name)].append((part.rows[name], gradient))
        self._adam.step([part.of_dense for part in slices])
        return self._adagrad.pieces(by_table, self._workers.threads)
