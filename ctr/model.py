"""The ranking model: trained ids, what frozen vectors say about target and history, one logit.

`CtrModel.forward` is written for TorchRec's pipelines: one look-up of sharded tables, then everything else in
a module without tables (`Ranker`), which they do not have to look into.

Legend: B rows, N behaviours, E trained width, D frozen width, V frozen rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor

from ctr.batch import Batch
from ctr.concat import Concat
from ctr.cube import Cube
from ctr.frozen_embeddings import FrozenEmbeddings
from ctr.id_embeddings import HISTORY, TARGET, USER, id_embeddings
from ctr.predictor import Predictor
from ctr.similarity import ContentInputs, Similarity
from ctr.simtier import SimTier
from ctr.target_attention import TargetAttention

CONTENT_MODULES = ("concat", "simtier", "cube")

ContentModule = Concat | SimTier | Cube

StepOutput = tuple[Tensor, Tensor, Tensor]
"""Loss (scalar), logits (B,) and labels (B,) of a training step."""


class Ranker(nn.Module):
    """Everything of the model but the trained tables.

    Args:
        embedding_dim: width E of the trained ids.
        frozen: the frozen vectors; None for a model of ids only.
        content: names out of `CONTENT_MODULES`, each at most once.
    """

    def __init__(self, embedding_dim: int, frozen: FrozenEmbeddings | None, content: Sequence[str]) -> None:
        super().__init__()
        self.attention = TargetAttention(embedding_dim)
        self.content = nn.ModuleDict()
        self.similarity = Similarity(frozen) if frozen is not None and content else None
        for name in content:
            if frozen is None:
                raise ValueError(f"content {name!r} needs frozen vectors")
            self.content[name] = _content_module(name, frozen.dimension, embedding_dim)
        content_width = sum(module.width for module in self._content_modules())
        self.predictor = Predictor(3 * embedding_dim + content_width)

    def forward(self, embedded: Mapping[str, JaggedTensor], batch: Batch) -> Tensor:
        """Logits (B,) from the batch and its looked-up ids (`user`, `target_item`, `history_item`)."""
        user_BE, target_BE = embedded[USER].values(), embedded[TARGET].values()
        behaviour_NE = embedded[HISTORY].values()
        interest_BE = self.attention(target_BE, behaviour_NE, batch.row_N, batch.offset_B1)
        parts = [user_BE, target_BE, interest_BE]
        if self.similarity is not None:
            inputs = self._content_inputs(batch, behaviour_NE)
            parts += [module(inputs) for module in self._content_modules()]
        logit_B: Tensor = self.predictor(torch.cat(parts, dim=1))
        return logit_B

    def fit(self, batch: Batch) -> None:
        """Learn the scales of the content inputs from a batch of training rows, once, before training."""
        if self.similarity is None:
            return
        self.similarity.fit(batch.target_B, batch.history_N, batch.row_N, batch.offset_B1)
        inputs = self._content_inputs(batch, torch.empty(len(batch.history_N), 0))
        for module in self._content_modules():
            module.fit(inputs)

    def _content_modules(self) -> list[ContentModule]:
        return [cast(ContentModule, module) for module in self.content.values()]

    def _content_inputs(self, batch: Batch, behaviour_NE: Tensor) -> ContentInputs:
        assert self.similarity is not None
        cosine_N, score_N, covered_N, count_B, top_BK = self.similarity(
            batch.target_B, batch.history_N, batch.row_N, batch.offset_B1
        )
        return ContentInputs(
            table_VD=self.similarity.frozen.vectors,
            target_B=batch.target_B,
            history_N=batch.history_N,
            row_N=batch.row_N,
            offset_B1=batch.offset_B1,
            cosine_N=cosine_N,
            score_N=score_N,
            covered_N=covered_N,
            count_B=count_B,
            top_BK=top_BK,
            behaviour_NE=behaviour_NE,
        )


class CtrModel(nn.Module):
    """The probability that a user takes what is shown, as a logit.

    Args:
        users, items: rows of the trained tables, the unknown rows included.
        embedding_dim: their width.
        frozen: the frozen vectors; None for a model of ids only.
        content: names out of `CONTENT_MODULES`.
        seed: seed of all initial values.
        table_device: where the tables are made; `meta` when TorchRec is to shard them.
    """

    ids: EmbeddingCollection

    def __init__(
        self,
        *,
        users: int,
        items: int,
        embedding_dim: int,
        frozen: FrozenEmbeddings | None,
        content: Sequence[str],
        seed: int,
        table_device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.ranker = Ranker(embedding_dim, frozen, content)
            self.ids = id_embeddings(users, items, embedding_dim, seed, table_device)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B,)."""
        logit_B: Tensor = self.ranker(self.ids(batch.ids), batch)
        return logit_B


class TrainingTask(nn.Module):
    """A model with its loss, in the form that TorchRec's pipelines train: a batch to (loss, outputs)."""

    def __init__(self, model: CtrModel) -> None:
        super().__init__()
        self.model = model
        self.loss = ScaledLoss()

    def forward(self, batch: Batch) -> tuple[Tensor, StepOutput]:
        """The batch's loss (a scalar), and (the loss, logits (B,), labels (B,)), detached."""
        logit_B = self.model(batch)
        loss = self.loss(logit_B, batch)
        return loss, (loss.detach(), logit_B.detach(), batch.label_B)


class ScaledLoss(nn.Module):
    """Binary cross-entropy, summed over the rows and multiplied by `batch.loss_scale`."""

    def forward(self, logit_B: Tensor, batch: Batch) -> Tensor:
        """A scalar."""
        total = F.binary_cross_entropy_with_logits(logit_B, batch.label_B, reduction="sum")
        return total * batch.loss_scale


def _content_module(name: str, dimension: int, embedding_dim: int) -> ContentModule:
    if name == "concat":
        return Concat(dimension)
    if name == "simtier":
        return SimTier()
    if name == "cube":
        return Cube(dimension, embedding_dim)
    raise ValueError(f"no content module is called {name!r}; choose from {', '.join(CONTENT_MODULES)}")
