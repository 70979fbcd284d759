"""The trained tables under the towers, for TorchRec's sharders and for plain look-ups alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.layers.id_embeddings import TABLE_OF, context_embeddings, id_embeddings
from ctr.model import StepOutput, pooled_context
from ctr.retrieval.batch import FEATURES, RetrievalBatch
from ctr.retrieval.softmax import SampledSoftmax
from ctr.retrieval.towers import Towers, TowerShape


@dataclass(frozen=True)
class RetrievalShape:
    """What a model is made of, beside its weights and frozen vectors.

    Attributes:
        ids: rows of the tables `user`, `item` and `category`, the unknown row included.
        context: likewise, a table per context column.
        numbers: numeric inputs, flags included.
        embedding_dim: width of all tables.
        dim: width of both towers' output.
        history: the longest history.
        seed: seed of all initial values.
    """

    ids: Mapping[str, int]
    context: Mapping[str, int]
    numbers: int
    embedding_dim: int
    dim: int
    history: int
    seed: int


class TwoTowers(nn.Module):
    """Users and items as unit vectors (D), whose dot product says how likely the user takes the item.

    Args:
        shape: what it is made of.
        frozen: item vectors; None for a model of ids and categories.
        table_device: where the tables are made; `meta` when TorchRec is to shard them.
    """

    ids: EmbeddingCollection
    context: EmbeddingBagCollection | None

    def __init__(
        self,
        shape: RetrievalShape,
        frozen: FrozenEmbeddings | None,
        table_device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        dimension, seed = shape.embedding_dim, shape.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            towers = TowerShape(
                context=list(shape.context),
                numbers=shape.numbers,
                embedding_dim=dimension,
                dim=shape.dim,
                history=shape.history,
                items=shape.ids["item"],
            )
            self.towers = Towers(towers, frozen)
            self.softmax = SampledSoftmax()
            self.ids = id_embeddings(shape.ids, dimension, seed, table_device, FEATURES)
            self.context = None
            if shape.context:
                self.context = context_embeddings(shape.context, dimension, seed, table_device)
        self.dim = shape.dim
        self._context_names = list(shape.context)

    def forward(self, batch: RetrievalBatch) -> tuple[Tensor, Tensor]:
        """Users (B, D) and candidates (C, D) of a batch for TorchRec."""
        context = self.context(batch.context) if self.context is not None else None
        user_BD, item_CD = self.towers(self.ids(batch.ids), context, batch)
        return user_BD, item_CD

    def tables(self) -> dict[str, nn.Parameter]:
        """The weights of the unsharded tables by name."""
        tables = {name: table.weight for name, table in self.ids.embeddings.items()}
        if self.context is not None:
            tables |= {name: table.weight for name, table in self.context.embedding_bags.items()}
        return tables

    def look_up(self, batch: RetrievalBatch) -> dict[str, Tensor]:
        """Embeddings per feature of a batch for local look-ups, detached from the tables."""
        assert batch.local is not None
        tables = self.tables()
        return {
            name: tables[TABLE_OF.get(name, name)].detach().index_select(0, rows)
            for name, rows in batch.local.items()
        }

    def users(self, batch: RetrievalBatch, embedded: Mapping[str, Tensor] | None = None) -> Tensor:
        """Users (B, D) of a batch for local look-ups, given (or without) what `look_up` found."""
        embedded = self.look_up(batch) if embedded is None else embedded
        assert batch.local_offsets is not None
        context_BE = pooled_context(self._context_names, embedded, batch.local_offsets)
        return self.towers.users(embedded, context_BE, batch)

    def candidates(self, batch: RetrievalBatch, embedded: Mapping[str, Tensor] | None = None) -> Tensor:
        """Candidates (C, D) of a batch for local look-ups, likewise."""
        return self.towers.candidates(self.look_up(batch) if embedded is None else embedded, batch)


class RetrievalTask(nn.Module):
    """A model with its loss, in the form that TorchRec's pipelines train: a batch to (loss, outputs)."""

    def __init__(self, model: TwoTowers) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: RetrievalBatch) -> tuple[Tensor, StepOutput]:
        """The batch's loss (a scalar), and (the loss, which rows rank their target first, those rows)."""
        user_BD, item_CD = self.model(batch)
        loss, first_B = self.model.softmax(user_BD, item_CD, batch)
        return loss, (loss.detach(), first_B, torch.ones_like(first_B))
