"""Search queries for evaluation: equal queries are one query, and all that was taken are its positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from encoders.pairs import UNKNOWN_LIMIT, Unknown
from encoders.products import Product
from moonrec.errors import UserError
from moonrec.ids import codes_of, rows_of
from moonrec.tables import Table


class NoQueries(UserError):
    """A task finds nothing to ask."""


@dataclass(frozen=True)
class Queries:
    """Distinct queries (Q) and their positives (P).

    `first_row_Q` is a row of `searches` that shows the query; `own_item_Q` the catalogue row whose picture
    the query is (-1: none), left out of its ranking; `query_P`, `item_P` are the positives in the catalogue;
    `positives_Q` counts all positives, those too that the catalogue lacks.
    """

    first_row_Q: np.ndarray
    own_item_Q: np.ndarray
    query_P: np.ndarray
    item_P: np.ndarray
    positives_Q: np.ndarray


def distinct_queries(
    searches: Table,
    item_ids: pa.Array | pa.ChunkedArray,
    keys: pa.Array | Sequence[bytes | None],
    *,
    leave_own_out: bool = True,
) -> Queries:
    """Group the rows of `searches` into queries.

    Args:
        searches: the table.
        item_ids: the catalogue's ids; `item_P` are positions in them.
        keys: per row what the query is (rows with an equal key are one query), as digests or as an Arrow
            array; None leaves the row out.
        leave_own_out: whether the item whose picture the query is is left out of its ranking.

    Raises:
        NoQueries: no query is left.
    """
    has_own = leave_own_out and "query_item_id" in searches.column_names
    columns = ["item_id", *(["query_item_id"] if has_own else [])]
    table = searches.read(columns)
    asked_as = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.binary())
    used = np.asarray(asked_as.is_valid())
    own = np.full(len(table), -1, np.int64)
    if has_own:
        own = rows_of(table.column("query_item_id"), item_ids)
    names = asked_as.drop_null()
    if not len(names):
        raise NoQueries(f"{searches.path}: no row has a usable query for this task")
    query = names.dictionary_encode().indices.to_numpy()
    taken, taken_ids = codes_of(table.column("item_id"))
    pairs = np.unique(np.stack([query, taken[used]], 1), axis=0)
    item_of = rows_of(taken_ids, item_ids)
    item = item_of[pairs[:, 1]]
    first = np.unique(query, return_index=True)[1]
    rows = np.flatnonzero(used)[first]
    # A query that took its own picture's item teaches nothing: that item is left out of the ranking.
    kept = item != np.where(own[rows] >= 0, own[rows], -2)[pairs[:, 0]]
    query_P, item_P = pairs[kept, 0], item[kept]
    positives = np.bincount(query_P, minlength=len(rows))
    asked = positives > 0
    number = np.cumsum(asked) - 1
    found = item_P >= 0
    if not asked.any():
        raise NoQueries(f"{searches.path}: every query's only positive is its own picture's item")
    return Queries(rows[asked], own[rows][asked], number[query_P[found]], item_P[found], positives[asked])


def unknown_items(searches: Table, *known: pa.Array | pa.ChunkedArray) -> Unknown:
    """Rows of `searches` that name items which none of the catalogues with the ids `known` has.

    Raises:
        UserError: they are more than half: it is the wrong catalogue.
    """
    ids = searches.read(["item_id"]).column("item_id")
    unknown = Unknown.among(ids, np.max([rows_of(ids, some) for some in known], axis=0))
    if unknown.count > UNKNOWN_LIMIT * unknown.rows:
        named = ", ".join(repr(name) for name in unknown.examples)
        raise UserError(
            f"{searches.path}: {unknown.count:,} of {unknown.rows:,} searches name items that the catalogue "
            f"lacks, such as {named}; give the catalogue that was searched as --items"
        )
    return unknown


def image_digest(product: Product) -> bytes:
    """Equal for equal query pictures, wherever their core region is."""
    return Product("", product.image, ()).digest()


def text_digest(product: Product) -> bytes:
    """Equal for equal words."""
    return Product("", None, product.texts).digest()
