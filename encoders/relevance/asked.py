"""What searches say, as numbers of their queries and of the catalogue's rows.

Shapes: n rows of a window, Q distinct queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from encoders.relevance.item_vectors import ItemVectors
from encoders.relevance.query_vectors import QueryWindow
from moonrec.ids import rows_of
from moonrec.tables import Table

_IDS = ("item_id", "negative_item_id", "query_item_id")


@dataclass(frozen=True)
class Asked:
    """The rows of a window.

    Attributes:
        query_n: the query of each row; -1 for one that is of no use.
        taken_n, shown_n: catalogue rows of `item_id` and of `negative_item_id`; -1: none or unknown.
        own_Q: per query the item whose picture it is; -1: none.
    """

    query_n: np.ndarray
    taken_n: np.ndarray
    shown_n: np.ndarray
    own_Q: np.ndarray


def id_columns(searches: Table) -> pa.Table:
    """The columns of a searches table that name items."""
    return searches.read([name for name in _IDS if name in searches.column_names])


def as_numbers(ids: pa.Table, window: QueryWindow, items: ItemVectors) -> Asked:
    """The rows of a window, of a table with these `id_columns`."""
    rows = ids.slice(window.first_row, len(window.query_n))
    none_n = np.full(len(rows), -1)
    found = [rows_of(rows.column(name), items.ids) if name in rows.column_names else none_n for name in _IDS]
    taken_n, shown_n, own_n = found
    usable_n = window.vectors.modality_Q()[window.query_n] >= 0
    query_n = np.where(usable_n, window.query_n, -1)
    return Asked(query_n, taken_n, shown_n, own_n[window.row_Q - window.first_row])


def positive_pairs(asked: Asked) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (query, item taken) pairs, less those whose item is the query's own picture."""
    (usable,) = np.nonzero((asked.query_n >= 0) & (asked.taken_n >= 0))
    query, item = asked.query_n[usable], asked.taken_n[usable]
    kept = item != asked.own_Q[query]
    pairs = np.unique(np.stack([query[kept], item[kept]], 1), axis=0)
    return pairs[:, 0], pairs[:, 1]
