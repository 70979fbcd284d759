"""A catalogue through the item tower of a saved model, block by block: what can be told of an item is enough.

An item that training never saw comes in by its vector, its category or both. Memory holds the ids, two
numbers per item and the frozen vectors of one block.

Legend: N items of the catalogue, M items of a block, R frozen width, D width of the tower's output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.data.codes import Codes
from ctr.data.ragged import Ragged
from ctr.retrieval.catalogue import ItemInputs, category_paths, category_texts
from ctr.retrieval.saving import SavedRetrieval
from ctr.retrieval.vectors import item_vectors
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError
from moonrec.ids import rows_of
from moonrec.tables import Table

_BLOCK = 65_536


@dataclass(frozen=True)
class ServedItems:
    """Items to make vectors of.

    Attributes:
        ids: their ids (N).
        trained_N: row of each in the trained table, 0 = training did not see it.
        set_row_N: row of each in the embedding set, 0 = it has none.
        categories: rows of each one's category paths in the trained table.
    """

    ids: pa.ChunkedArray
    trained_N: NDArray[np.int64]
    set_row_N: NDArray[np.int64]
    categories: Ragged

    @classmethod
    def of(cls, saved: SavedRetrieval, items: Table | None) -> ServedItems:
        """The items of a table; without one, those of the embedding set, or those that were trained.

        Raises:
            UserError: the model reads categories, and there is no table with them.
        """
        reads_categories = len(saved.vocabulary.categories) > 0
        if reads_categories and items is None:
            raise UserError(
                f"--items: missing, but the model in {saved.run} reads categories; give the table of items"
            )
        if items is not None:
            ids = items.read(["item_id"])["item_id"]
        elif saved.embeddings is not None:
            ids = saved.embeddings.ids
        else:
            ids = pa.chunked_array([saved.vocabulary.ids.items])
        categories = Ragged(np.zeros(0, np.int64), np.zeros(len(ids) + 1, np.int64))
        if reads_categories and items is not None:
            texts = category_texts(items, Codes(ids.cast(pa.large_string()).combine_chunks()))
            found = category_paths(texts, Codes(saved.vocabulary.categories), grow=False)
            categories = Ragged(found.values + 1, found.offsets)
        nowhere = np.zeros(len(ids), np.int64)
        return cls(
            ids=ids,
            trained_N=rows_of(ids, saved.vocabulary.ids.items) + 1,
            set_row_N=nowhere if saved.embeddings is None else saved.embeddings.rows(ids),
            categories=categories,
        )

    def __len__(self) -> int:
        return len(self.ids)


def served_vectors(
    saved: SavedRetrieval, items: ServedItems
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Which items of each block the model can tell something of, and their unit vectors (M, D).

    Raises:
        UserError: a frozen vector holds NaN or an infinite number.
    """
    width = 0 if saved.embeddings is None else saved.embeddings.dimension
    frozen = FrozenEmbeddings(torch.zeros(1, width)) if saved.embeddings is not None else None
    model = saved.model(frozen)
    for first in range(0, len(items), _BLOCK):
        place_M = np.arange(first, min(first + _BLOCK, len(items)))
        row_M = np.zeros(len(place_M), np.int64)
        if saved.embeddings is not None:
            model.towers.frozen = _frozen(saved.embeddings, items.set_row_N[place_M])
            row_M = model.towers.frozen.covered[1:].numpy() * np.arange(1, len(place_M) + 1)
        inputs = ItemInputs(items.trained_N[place_M], row_M, items.categories.take(place_M))
        (known,) = np.nonzero(inputs.known())
        first_of_part = 0
        for vectors_MD in item_vectors(model, inputs, known):
            part = known[first_of_part : first_of_part + len(vectors_MD)]
            yield place_M[part], vectors_MD
            first_of_part += len(vectors_MD)


def _frozen(embeddings: EmbeddingSet, set_row_M: NDArray[np.int64]) -> FrozenEmbeddings:
    vectors = np.zeros((len(set_row_M) + 1, embeddings.dimension), np.float32)
    vectors[1:] = embeddings.vectors(set_row_M)
    if not np.isfinite(vectors).all():
        raise UserError(f"{embeddings.path}: holds NaN or infinite numbers; export or import it again")
    return FrozenEmbeddings(torch.from_numpy(vectors))
