"""What can be retrieved: items with a trained row, a vector or a known category, and what the model sees.

Legend: C items by their code, M candidates, c items of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.data.codes import Codes
from ctr.data.ragged import Ragged
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError
from moonrec.ids import rows_of
from moonrec.tables import Table

_SEPARATOR = ">"


@dataclass(frozen=True)
class ItemInputs:
    """What the item tower reads, by item code.

    Attributes:
        trained_C: row in the trained table, 0 = unknown.
        frozen_C: row in the frozen vectors, 0 = not covered.
        categories: rows of each item's category paths, `A`, `A > B`, `A > B > C`, in the trained table of
            categories; unknown ones are left out.
    """

    trained_C: NDArray[np.int64]
    frozen_C: NDArray[np.int64]
    categories: Ragged

    def known(self) -> NDArray[np.bool_]:
        """Which items the tower can tell anything about."""
        return (self.trained_C > 0) | (self.frozen_C > 0) | (np.diff(self.categories.offsets_R1) > 0)


@dataclass(frozen=True)
class Catalogue:
    """The candidates.

    Attributes:
        ids: their ids (M), the order of the index.
        code_M: their codes.
        position_C: where each code stands among them, -1 = it is no candidate.
    """

    ids: pa.Array
    code_M: NDArray[np.int64]
    position_C: NDArray[np.int64]

    @classmethod
    def of(cls, ids: pa.ChunkedArray, listed: NDArray[np.int64], known_C: NDArray[np.bool_]) -> Catalogue:
        """The listed codes that are known, in the order of the list.

        Args:
            ids: of all codes.
            listed: codes of the catalogue.
            known_C: see `ItemInputs.known`.
        """
        code_M = listed[known_C[listed]]
        position_C = np.full(len(known_C), -1, np.int64)
        position_C[code_M] = np.arange(len(code_M))
        chosen = ids.take(pa.array(code_M)).combine_chunks()
        return cls(chosen.cast(pa.large_string()), code_M, position_C)

    def __len__(self) -> int:
        return len(self.code_M)


def category_texts(items: Table, known: Codes) -> list[str | None]:
    """The category of each known item, None where the table tells none."""
    table = items.read(["item_id", "category"])
    place = rows_of(known.ids, table["item_id"])
    texts = table["category"].combine_chunks().take(pa.array(place, mask=place < 0))
    found: list[str | None] = texts.to_pylist()
    return found


def category_paths(texts: list[str | None], codes: Codes, grow: bool) -> Ragged:
    """Codes of all prefixes of each category, outermost first; those that are not known are left out.

    Args:
        texts: `A > B > C`, None = none.
        codes: the numbers of the paths.
        grow: whether new paths get one.
    """
    distinct = pa.array(texts, pa.string()).dictionary_encode()
    paths = [_prefixes(text) for text in distinct.dictionary.to_pylist()]
    flat = pa.array([path for some in paths for path in some], pa.large_string())
    code = codes.add(flat) if grow else codes.find(flat)
    whole = Ragged.of_lengths(code, np.array([len(some) for some in paths], np.int64))
    # The entry behind the last one is that of items without a category.
    with_none = Ragged(whole.values, np.append(whole.offsets_R1, whole.offsets_R1[-1]))
    index = pc.fill_null(distinct.indices, len(paths)).to_numpy(zero_copy_only=False).astype(np.int64)
    spread = with_none.take(index)
    return kept_values(spread, spread.values >= 0)


def kept_values(ragged: Ragged, keep_N: NDArray[np.bool_]) -> Ragged:
    """The lists without the values whose flag is false."""
    before_N1 = np.append(0, np.cumsum(keep_N))
    return Ragged(ragged.values[keep_N], before_N1[ragged.offsets_R1])


def read_frozen(
    embeddings: EmbeddingSet | None, ids: pa.ChunkedArray
) -> tuple[FrozenEmbeddings | None, NDArray[np.int64]]:
    """The vectors of some items, and the row of each (C,), 0 = it has none.

    Raises:
        UserError: the set holds numbers that are none.
    """
    if embeddings is None:
        return None, np.zeros(len(ids), np.int64)
    frozen, row_C = FrozenEmbeddings.from_set(embeddings, ids)
    if not np.isfinite(frozen.vectors.numpy()).all():
        raise UserError(f"{embeddings.path}: holds NaN or infinite numbers; export or import it again")
    return frozen, row_C * frozen.covered.numpy()[row_C]


def content_vectors(frozen: FrozenEmbeddings, row: NDArray[np.int64], block: int) -> Iterator[np.ndarray]:
    """The frozen vectors of some rows, float32 blocks; rows without one are zeros."""
    table = frozen.vectors.numpy()
    for first in range(0, len(row), block):
        yield table[row[first : first + block]]


def _prefixes(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(_SEPARATOR)]
    parts = [part for part in parts if part]
    return [f" {_SEPARATOR} ".join(parts[: end + 1]) for end in range(len(parts))]
