"""The engine for one CPU process: plain tables, and updates of the touched rows only.

It has the same few methods as the engine for several processes (ctr/distributed.py), and the same
mathematics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ctr.batch import Batch
from ctr.model import CtrModel, StepOutput, TrainingTask
from ctr.rowwise_adagrad import RowwiseAdagrad


class OneProcessScorer:
    """Scores with a model in this process.

    Args:
        model: the model.
    """

    rank, world_size = 0, 1

    def __init__(self, model: CtrModel) -> None:
        self._model = model

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Logits (B,), on the CPU."""
        self._model.eval()
        logit_B: Tensor = self._model(batch)
        return logit_B

    def gather(self, value_R: Tensor) -> list[Tensor]:
        """Every process's part of a result; there is one process here."""
        return [value_R]


class OneProcess(OneProcessScorer):
    """Trains a model in this process, and scores with it.

    Args:
        model: the model; its weights are updated in place.
        learning_rate: of the dense parts (Adam).
        sparse_learning_rate: of the tables (row-wise Adagrad).
    """

    def __init__(self, model: CtrModel, learning_rate: float, sparse_learning_rate: float) -> None:
        super().__init__(model)
        for table in model.ids.embeddings.values():
            table.sparse = True
        self._task = TrainingTask(model)
        tables: list[nn.Parameter] = list(model.ids.parameters())
        # Adam's fused kernel: the dense parts are small, the overhead of one kernel per tensor is not.
        self._dense = torch.optim.Adam(model.ranker.parameters(), lr=learning_rate, fused=True)
        self._sparse = RowwiseAdagrad(tables, sparse_learning_rate)

    def steps(self, batches: Iterable[Batch]) -> Iterator[StepOutput]:
        """Update with one batch after the other; yields loss, logits from before the update and labels."""
        for batch in batches:
            self._model.train()
            self._dense.zero_grad(set_to_none=True)
            loss, output = self._task(batch)
            loss.backward()
            self._dense.step()
            self._sparse.step()
            yield output

    def state_dict(self) -> dict[str, Tensor]:
        """The model's weights as plain CPU tensors."""
        return {name: value.detach().cpu() for name, value in self._model.state_dict().items()}
