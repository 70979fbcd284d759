"""The ranking model: trained ids and features, what frozen vectors say about target and history, one logit.

`CtrModel.forward` is written for TorchRec's pipelines: one look-up of sharded tables, then everything else in
a module without tables (`Ranker`), which they do not have to look into. `CtrModel.local` does the same with
plain look-ups in unsharded tables.

Legend: B rows, N behaviours, E trained width, C context features, F numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedTensor

from ctr.content.content_interest import ContentInterest
from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.content.make import Make
from ctr.content.similarity import ContentInputs
from ctr.data.batch import Batch, Behaviours
from ctr.layers.dcn import DcnPredictor
from ctr.layers.id_embeddings import (
    HISTORY,
    QUERY,
    QUERY_HISTORY,
    TABLE_OF,
    TARGET,
    USER,
    context_embeddings,
    id_embeddings,
)
from ctr.layers.jagged import row_means
from ctr.layers.predictor import Predictor
from ctr.layers.target_attention import TargetAttention

PREDICTORS = {"mlp": Predictor, "dcn": DcnPredictor}

StepOutput = tuple[Tensor, Tensor, Tensor]
"""Loss (scalar), logits (B,) and labels (B,) of a training step."""


@dataclass(frozen=True)
class ModelShape:
    """What a model is made of, beside its weights and frozen vectors.

    Attributes:
        ids: rows of the id tables `user`, `item` and, if it knows queries, `query`; the unknown row included.
        context: likewise, a table per declared categorical.
        numbers: numeric inputs, flags included.
        embedding_dim: width of all tables.
        content: names out of `ctr.content.content_interest.CONTENT_MODULES`.
        cross: pairs of item sets: targets of the first against behaviours of the second.
        predictor: a name out of `PREDICTORS`.
        seed: seed of all initial values.
    """

    ids: Mapping[str, int]
    context: Mapping[str, int]
    numbers: int
    embedding_dim: int
    content: Sequence[str]
    cross: Sequence[tuple[str, str]] = ()
    predictor: str = "mlp"
    seed: int = 0


class FrozenSets(NamedTuple):
    """Frozen vectors by the names of their sets; those of queries by the set whose space they live in."""

    items: Mapping[str, FrozenEmbeddings]
    queries: Mapping[str, FrozenEmbeddings]


NO_VECTORS = FrozenSets({}, {})


class Comparison(NamedTuple):
    """What an interest holds against what, by the names of the sets.

    Attributes:
        target: the set that targets are read from.
        behaviour: the set that behaviours are read from.
        queries: whether the behaviours are queries, and `behaviour` the name of their vectors; else items.
    """

    target: str
    behaviour: str
    queries: bool = False

    @property
    def key(self) -> str:
        """A name that no other comparison has: the signs in it occur in no set's name."""
        return f"{self.target}>{'query:' if self.queries else ''}{self.behaviour}"


class Ranker(nn.Module):
    """Everything of the model but the trained tables."""

    def __init__(self, shape: ModelShape, frozen: FrozenSets) -> None:
        super().__init__()
        E = shape.embedding_dim
        self.context_names = list(shape.context)
        self.attention = TargetAttention(E)
        self.query_attention = TargetAttention(E) if QUERY in shape.ids else None
        self.comparisons = _comparisons(shape, frozen) if shape.content else []
        self.interests = nn.ModuleDict({one.key: _interest(one, shape, frozen) for one in self.comparisons})
        ids = 5 if self.query_attention is not None else 3
        content = sum(interest.width for _, interest in self._interests())
        width = (ids + len(shape.context)) * E + shape.numbers + content
        self.predictor = PREDICTORS[shape.predictor](width)

    def forward(self, ids: Mapping[str, JaggedTensor], context: KeyedTensor | None, batch: Batch) -> Tensor:
        """Logits (B,) from the batch and what TorchRec looked up for it."""
        context_BE = None if context is None else context.values()
        return self.rank({name: values.values() for name, values in ids.items()}, context_BE, batch)

    def rank(self, ids: Mapping[str, Tensor], context_BE: Tensor | None, batch: Batch) -> Tensor:
        """Logits (B,).

        Args:
            ids: embeddings (B, E) or (N, E) per feature of the id collection.
            context_BE: pooled embeddings of the declared categoricals, side by side (B, C · E).
            batch: the batch.
        """
        target_BE, items = ids[TARGET], batch.items
        parts = [ids[USER], target_BE]
        parts.append(self.attention(target_BE, ids[HISTORY], items.row_N, items.offset_B1))
        if self.query_attention is not None and batch.queries is not None:
            asked = (batch.queries.row_N, batch.queries.offset_B1)
            parts += [ids[QUERY], self.query_attention(target_BE, ids[QUERY_HISTORY], *asked)]
        if context_BE is not None:
            parts.append(context_BE)
        if batch.numeric_BF is not None:
            parts.append(batch.numeric_BF)
        for comparison, interest in self._interests():
            behaviours, feature = _behaviours(comparison, batch)
            rows = (batch.target_B, behaviours.frozen_N, behaviours.offset_B1)
            inputs = interest.inputs(*rows, target_BE, ids[feature], batch.query_B, behaviours.row_N)
            parts += [module(inputs) for module in interest.modules_in_order()]
        logit_B: Tensor = self.predictor(torch.cat(parts, dim=1))
        return logit_B

    def fit(self, batch: Batch) -> None:
        """Learn the scales of the content inputs from a batch of training rows, once, before training."""
        for comparison, interest in self._interests():
            behaviours, _ = _behaviours(comparison, batch)
            interest.fit(batch.target_B, behaviours.frozen_N, behaviours.offset_B1, batch.query_B)

    def make_modules(self) -> list[Make]:
        """The MAKE modules, which are pretrained before the rest."""
        return [cast(Make, interest.content["make"]) for _, interest in self._makers()]

    def make_inputs(self, batch: Batch) -> list[ContentInputs]:
        """The content inputs of each of `make_modules`; MAKE does not read trained embeddings."""
        found = []
        for comparison, interest in self._makers():
            behaviours, _ = _behaviours(comparison, batch)
            rows = (batch.target_B, behaviours.frozen_N, behaviours.offset_B1)
            nothing = batch.label_B.new_empty(0)
            found.append(interest.inputs(*rows, nothing, nothing, batch.query_B, behaviours.row_N))
        return found

    def _makers(self) -> list[tuple[Comparison, ContentInterest]]:
        return [(one, interest) for one, interest in self._interests() if "make" in interest.content]

    def _interests(self) -> list[tuple[Comparison, ContentInterest]]:
        return [(one, cast(ContentInterest, self.interests[one.key])) for one in self.comparisons]


class CtrModel(nn.Module):
    """The probability that a user takes what is shown, as a logit.

    Args:
        shape: what it is made of.
        frozen: the frozen vectors.
        table_device: where the tables are made; `meta` when TorchRec is to shard them.
    """

    ids: EmbeddingCollection
    context: EmbeddingBagCollection | None

    def __init__(
        self, shape: ModelShape, frozen: FrozenSets = NO_VECTORS, table_device: str | torch.device = "cpu"
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(shape.seed)
            self.ranker = Ranker(shape, frozen)
            dimension, seed = shape.embedding_dim, shape.seed
            self.ids = id_embeddings(shape.ids, dimension, seed, table_device)
            self.context = None
            if shape.context:
                self.context = context_embeddings(shape.context, dimension, seed, table_device)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B,) of a batch for TorchRec."""
        context = self.context(batch.context) if self.context is not None else None
        logit_B: Tensor = self.ranker(self.ids(batch.ids), context, batch)
        return logit_B

    def tables(self) -> dict[str, nn.Parameter]:
        """The weights of the unsharded tables by name."""
        tables = {name: table.weight for name, table in self.ids.embeddings.items()}
        if self.context is not None:
            tables |= {name: table.weight for name, table in self.context.embedding_bags.items()}
        return tables

    def look_up(self, batch: Batch) -> dict[str, Tensor]:
        """Embeddings per feature of a batch for local look-ups, detached from the tables."""
        assert batch.local is not None
        tables = self.tables()
        return {
            name: tables[TABLE_OF.get(name, name)].detach().index_select(0, rows)
            for name, rows in batch.local.items()
        }

    def local(self, batch: Batch, embedded: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits (B,) of a batch for local look-ups, given (or without) what `look_up` found."""
        embedded = self.look_up(batch) if embedded is None else embedded
        assert batch.local_offsets is not None
        context_BE = pooled_context(self.ranker.context_names, embedded, batch.local_offsets)
        logit_B: Tensor = self.ranker.rank(embedded, context_BE, batch)
        return logit_B


def pooled_context(
    names: Sequence[str], embedded: Mapping[str, Tensor], offsets: Mapping[str, Tensor]
) -> Tensor | None:
    """Declared categoricals of local look-ups, averaged per row and side by side; None without any.

    Args:
        names: of the columns.
        embedded: what was looked up, by column.
        offsets: where each row's values begin, of columns that hold lists.
    """
    pooled = [
        row_means(embedded[name], offsets[name]) if name in offsets else embedded[name] for name in names
    ]
    return torch.cat(pooled, dim=1) if pooled else None


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


def _comparisons(shape: ModelShape, frozen: FrozenSets) -> list[Comparison]:
    """Every set against itself and against the queries of its space, then the crossed pairs."""
    found = []
    for name in frozen.items:
        found.append(Comparison(name, name))
        if name in frozen.queries:
            found.append(Comparison(name, name, queries=True))
    found += [Comparison(target, behaviour) for target, behaviour in shape.cross]
    if not found:
        raise ValueError(f"content {', '.join(shape.content)} needs frozen vectors")
    return found


def _interest(comparison: Comparison, shape: ModelShape, frozen: FrozenSets) -> ContentInterest:
    """A set's comparison with itself is the one that knows the target's own vector and the query's."""
    target = frozen.items[comparison.target]
    if not comparison.queries and comparison.target == comparison.behaviour:
        queries = frozen.queries.get(comparison.target)
        return ContentInterest(target, shape.content, shape.embedding_dim, queries=queries)
    sets = frozen.queries if comparison.queries else frozen.items
    behaviours = sets[comparison.behaviour]
    return ContentInterest(target, shape.content, shape.embedding_dim, behaviours=behaviours, first=False)


def _behaviours(comparison: Comparison, batch: Batch) -> tuple[Behaviours, str]:
    """What an interest looks at, and the feature that holds its trained embeddings."""
    if comparison.queries:
        assert batch.queries is not None
        return batch.queries, QUERY_HISTORY
    return batch.items, HISTORY
