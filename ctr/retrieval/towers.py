"""Two towers that meet in unit vectors: what a user wants now, and what an item is.

Both start as content and popularity alone: the frozen vectors, centred and turned onto their principal
directions, are the linear residual that each tower adds its perceptron to, and an item's popularity is how
often it was taken. Before the first step a user is the mean of his history's vectors, and the model ranks by
the cosine to it, times popularity; training adds what ids, categories and context know. A two-tower model
over frozen vectors without such a residual collapses.

What everybody takes and what this user takes are kept apart: an item's popularity b is a coordinate of its
own, which the user tower answers with 1. Else all users would have to lean towards one direction, that of the
popular items. How much taste counts beside it is the strength s, at most 1. A last coordinate fills items up
to unit length, so that any index of cosines serves:
u = (û, 1, 0) / √2 and v = (s v̂, b, √(2 − s² − b²)) / √2, with u · v = (s û · v̂ + b) / 2.

Legend: B rows, N behaviours, C candidates, P category paths, E trained width, R frozen width, D width of both
towers' output, H attention heads, A positions in a history, F numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedTensor

from ctr.content.content_projection import ContentProjection
from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.data.batch import Behaviours
from ctr.layers.id_embeddings import CANDIDATE, CATEGORY, HISTORY, USER
from ctr.layers.independent_linear import IndependentLinear
from ctr.layers.jagged import row_means, weighted_sums, weighted_table_sums
from ctr.layers.jagged_softmax import jagged_softmax
from ctr.retrieval.batch import RetrievalBatch

_HEADS, _HIDDEN = 4, 128
_SQRT_2 = math.sqrt(2)
POPULARITY = 2
"""So many of the D coordinates tell popularity and fill up; the others are û and v̂."""
START = 0.1
"""The highest temperature before the first step; as in CLIP it is learnt. The start is ours."""
# Below that taste would count for nothing, and its weights would not learn; ours.
LOWEST_STRENGTH = 0.02
_NEVER_TAKEN = 0.5
# What a perceptron adds to a residual of length 1 before the first step; ours.
_SMALL = 0.1


@dataclass(frozen=True)
class TowerShape:
    """What the towers are made of, beside weights, tables and frozen vectors.

    Attributes:
        context: names of the context tables.
        numbers: numeric inputs, flags included.
        embedding_dim: E above.
        dim: D above.
        history: the longest history.
        items: rows of the table of items, the unknown one included.
    """

    context: Sequence[str]
    numbers: int
    embedding_dim: int
    dim: int
    history: int
    items: int


class ContentResidual(nn.Module):
    """`W · (r − centre)` at length 1; zeros where there is no vector.

    Args:
        dimension: R above.
        dim: D above.
    """

    centre: Tensor

    def __init__(self, dimension: int, dim: int) -> None:
        super().__init__()
        self.linear = IndependentLinear(dimension, dim, bias=False)
        self.register_buffer("centre", torch.zeros(dimension))

    @torch.no_grad()
    def fit(self, vectors_NR: Tensor) -> None:
        """Start from the principal directions of some items: dot products are then nearly those of `r`."""
        self.centre.copy_(vectors_NR.mean(dim=0))
        centred = (vectors_NR - self.centre).double()
        _, directions = torch.linalg.eigh(centred.t() @ centred)
        dim, width = self.linear.weight.shape
        kept = min(dim, width)
        self.linear.weight.zero_()
        self.linear.weight[:kept] = directions.flip(1)[:, :kept].t().float()

    def forward(self, vector_BR: Tensor, there_B: Tensor) -> Tensor:
        """(B, R) to (B, D)."""
        there_B1 = there_B.unsqueeze(1)
        turned_BD = self.linear((vector_BR - self.centre) * there_B1)
        return F.normalize(turned_BD, dim=1, eps=1e-6)


class Perceptron(nn.Module):
    """One hidden layer; its output starts small beside a residual of length 1."""

    def __init__(self, width: int, dim: int, small: bool) -> None:
        super().__init__()
        self.hidden = IndependentLinear(width, _HIDDEN)
        self.output = IndependentLinear(_HIDDEN, dim)
        if small:
            with torch.no_grad():
                self.output.weight.mul_(_SMALL)
                self.output.bias.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, width) to (B, D)."""
        output: Tensor = self.output(F.relu(self.hidden(inputs)))
        return output


class HistoryAttention(nn.Module):
    """What a history is about: behaviours weighed by what they are and how long ago, in several heads.

    Args:
        width: of a behaviour.
        history: the longest history.
    """

    def __init__(self, width: int, history: int) -> None:
        super().__init__()
        self.query = IndependentLinear(width, _HEADS, bias=False)
        self.recency = nn.Parameter(torch.zeros(history, _HEADS))

    def forward(self, behaviour_NE: Tensor, items: Behaviours, age_N: Tensor) -> Tensor:
        """Jagged behaviours and how many came after each, to (B, H · E)."""
        weight_NH = self.query(behaviour_NE) + self.recency.index_select(0, age_N)
        heads = []
        for head in range(_HEADS):
            weight_N = jagged_softmax(weight_NH[:, head].contiguous(), items.row_N, items.offset_B1)
            heads.append(weighted_sums(weight_N, behaviour_NE, items.row_N, items.offset_B1))
        return torch.cat(heads, dim=1)


class Towers(nn.Module):
    """Everything of the model but the trained tables.

    Args:
        shape: what they are made of.
        frozen: item vectors; None for a model of ids and categories.
    """

    log_taken: Tensor

    def __init__(self, shape: TowerShape, frozen: FrozenEmbeddings | None) -> None:
        super().__init__()
        E, D = shape.embedding_dim, shape.dim - POPULARITY
        self.frozen = frozen
        content = 0
        if frozen is not None:
            content = E
            self.item_content = ContentProjection(frozen.dimension, E)
            self.behaviour_content = ContentProjection(frozen.dimension, E)
            self.item_residual = ContentResidual(frozen.dimension, D)
            self.user_residual = ContentResidual(frozen.dimension, D)
            self.recency = nn.Parameter(torch.zeros(shape.history))
        self.attention = HistoryAttention(E, shape.history)
        # Whether there is a history is one more input.
        user = E + _HEADS * E + content + len(shape.context) * E + shape.numbers + 1
        self.user_output = Perceptron(user, D, small=frozen is not None)
        self.item_output = Perceptron(2 * E + content, D + 1, small=frozen is not None)
        with torch.no_grad():
            # Of popularity nothing but the counts is known before the first step.
            self.item_output.output.weight[-1] = 0
            self.item_output.output.bias[-1] = 0
        self.register_buffer("log_taken", torch.zeros(shape.items))
        self.taken_weight = nn.Parameter(torch.tensor([START]))
        self.unknown_taken = nn.Parameter(torch.zeros(1))
        self.log_strength = nn.Parameter(torch.zeros(1))

    @torch.no_grad()
    def fit(self, row_N: Tensor, taken_V: Tensor) -> None:
        """Learn what does not change in training.

        Args:
            row_N: frozen rows of training targets (0 = none), for centres, scales and principal directions.
            taken_V: how often the item of each row of the trained table is a training target.
        """
        known_V = taken_V > 0
        if bool(known_V.any()):
            # An item that is only in histories counts as taken less than once.
            log_V = taken_V.clamp_min(_NEVER_TAKEN).log()
            self.log_taken.copy_(log_V - log_V[known_V].mean())
            # What nothing is known of counts as the average item, before training knows better.
            self.unknown_taken.fill_(float(taken_V[known_V].mean().log() - log_V[known_V].mean()))
        if self.frozen is None or not bool((row_N > 0).any()):
            return
        self.item_content.fit(self.frozen.vectors, row_N)
        self.behaviour_content.fit(self.frozen.vectors, row_N)
        vectors_NR = self.frozen.vectors[torch.unique(row_N[row_N > 0])]
        self.item_residual.fit(vectors_NR)
        self.user_residual.fit(vectors_NR)

    @torch.no_grad()
    def weigh(self, strength: float, popularity: float) -> None:
        """Set how much taste counts (s above), and the log of how often an item was taken."""
        self.log_strength.fill_(math.log(strength))
        self.taken_weight.fill_(popularity)

    def forward(
        self, ids: Mapping[str, JaggedTensor], context: KeyedTensor | None, batch: RetrievalBatch
    ) -> tuple[Tensor, Tensor]:
        """Users (B, D) and candidates (C, D) from the batch and what TorchRec looked up for it."""
        values = {name: found.values() for name, found in ids.items()}
        context_BE = None if context is None else context.values()
        return self.users(values, context_BE, batch), self.candidates(values, batch)

    def users(self, ids: Mapping[str, Tensor], context_BE: Tensor | None, batch: RetrievalBatch) -> Tensor:
        """Unit vectors (B, D) from what was looked up for the batch."""
        items, age_N = batch.items, _ages(batch.items)
        there_B1 = (items.offset_B1.diff() > 0).to(ids[USER].dtype).unsqueeze(1)
        behaviour_NE, parts = ids[HISTORY], [ids[USER], there_B1]
        pooled_BR = None
        if self.frozen is not None:
            covered_N = (items.frozen_N > 0).to(behaviour_NE.dtype)
            there_U = (batch.frozen_U > 0).to(behaviour_NE.dtype)
            content_UE = self.behaviour_content(self.frozen(batch.frozen_U), there_U)
            behaviour_NE = behaviour_NE + content_UE.index_select(0, batch.place_N)
            pooled_BR, covered_B = self._content_mean(items, age_N, covered_N)
            parts.append(self.behaviour_content(pooled_BR, covered_B))
        parts.append(self.attention(behaviour_NE, items, age_N))
        if context_BE is not None:
            parts.append(context_BE)
        if batch.numeric_BF is not None:
            parts.append(batch.numeric_BF)
        user_BD: Tensor = self.user_output(torch.cat(parts, dim=1))
        if pooled_BR is not None:
            user_BD = user_BD + self.user_residual(pooled_BR, covered_B)
        unit_BD = F.normalize(user_BD, dim=1, eps=1e-6)
        one_B1 = torch.ones_like(there_B1)
        return torch.cat([unit_BD, one_B1, torch.zeros_like(one_B1)], dim=1) / _SQRT_2

    def candidates(self, ids: Mapping[str, Tensor], batch: RetrievalBatch) -> Tensor:
        """Unit vectors (C, D)."""
        item_CE = ids[CANDIDATE]
        parts = [item_CE, row_means(ids[CATEGORY], batch.category_offset_C1)]
        there_C = (batch.frozen_C > 0).to(item_CE.dtype)
        vector_CR = None
        if self.frozen is not None:
            vector_CR = self.frozen(batch.frozen_C)
            parts.append(self.item_content(vector_CR, there_C))
        output = self.item_output(torch.cat(parts, dim=1))
        item_CD = output[:, :-1]
        taken_C = torch.where(batch.trained_C > 0, self.log_taken[batch.trained_C], self.unknown_taken)
        popularity_C1 = torch.tanh(output[:, -1:] + (self.taken_weight * taken_C).unsqueeze(1))
        if vector_CR is not None:
            item_CD = item_CD + self.item_residual(vector_CR, there_C)
        strength = self.log_strength.clamp(math.log(LOWEST_STRENGTH), 0).exp()
        taste_CD = strength * F.normalize(item_CD, dim=1, eps=1e-6)
        filling_C1 = (2 - strength.square() - popularity_C1.square()).clamp_min(1e-6).sqrt()
        return torch.cat([taste_CD, popularity_C1, filling_C1], dim=1) / _SQRT_2

    def content_of_histories(self, batch: RetrievalBatch) -> Tensor:
        """Unit vectors (B, D − 2): what histories look and read like; zeros where nothing tells."""
        items = batch.items
        covered_N = (items.frozen_N > 0).to(self.recency.dtype)
        found: Tensor = self.user_residual(*self._content_mean(items, _ages(items), covered_N))
        return found

    def content_of_items(self, frozen_C: Tensor) -> Tensor:
        """Likewise (C, D − 2) of items, by their rows in the frozen vectors."""
        assert self.frozen is not None
        vector_CR = self.frozen(frozen_C)
        found: Tensor = self.item_residual(vector_CR, (frozen_C > 0).to(vector_CR.dtype))
        return found

    def _content_mean(self, items: Behaviours, age_N: Tensor, covered_N: Tensor) -> tuple[Tensor, Tensor]:
        """The history's vectors, averaged by recency over those that are there, and whether any is."""
        assert self.frozen is not None
        logit_N = self.recency.index_select(0, age_N) - (1 - covered_N) * 1e4
        weight_N = jagged_softmax(logit_N, items.row_N, items.offset_B1)
        pooled_BR = weighted_table_sums(weight_N, self.frozen.vectors, items.frozen_N, items.offset_B1)
        covered_B = pooled_BR.detach().abs().sum(dim=1) > 0
        return pooled_BR, covered_B.to(pooled_BR.dtype)


def _ages(items: Behaviours) -> Tensor:
    """How many behaviours of its row came after each (N)."""
    after_N = items.offset_B1[1:].index_select(0, items.row_N) - 1
    return after_N - torch.arange(len(after_N), device=after_N.device)
