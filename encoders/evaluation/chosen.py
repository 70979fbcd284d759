"""Which queries and items of an evaluation are looked at: the same ones again, whatever the encoder.

Where a hash decides, it is one of the texts and ids that a row holds, never of its pictures: choosing reads
no picture.

Shapes: Q queries, C chosen ones, N items of the catalogue, D domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from encoders.evaluation.ranked import CATALOGUE, Ranked
from moonrec.domains import Domains
from moonrec.tables import Table

BEST, MEDIAN, WORST, FIXED = "best", "median", "worst", "fixed"
OF_EACH, OF_FIXED, NEIGHBOURHOODS = 3, 4, 6
_HASHED = ("query_text", "query_item_id", "item_id")


@dataclass(frozen=True)
class ChosenQueries:
    """Queries to show (C): why each, its number among the queries, and the rank of its first positive."""

    kinds: list[str]
    query_C: np.ndarray
    rank_C: np.ndarray


def choose_queries(ranked: Ranked, hash_N: np.ndarray) -> ChosenQueries:
    """The best, median and worst queries, and a few that depend on nothing but the rows that ask them.

    Only queries are chosen one of whose positives can be found; among equals the hash decides.

    Args:
        ranked: a task's queries and ranks.
        hash_N: `row_hashes` of the table that the queries come from.
    """
    first_rank_Q = ranked.first_rank_Q()
    (found,) = np.nonzero(first_rank_Q > 0)
    hash_Q = hash_N[ranked.queries.first_row_Q]
    order = found[np.lexsort((hash_Q[found], first_rank_Q[found]))]
    best, rest = order[:OF_EACH], order[OF_EACH:]
    worst, between = rest[-OF_EACH:][::-1], rest[:-OF_EACH]
    start = max(0, (len(between) - OF_EACH) // 2)
    fixed = found[np.argsort(hash_Q[found], kind="stable")[:OF_FIXED]]
    parts = {BEST: best, MEDIAN: between[start : start + OF_EACH], WORST: worst, FIXED: fixed}
    query_C = np.concatenate(list(parts.values()))
    kinds = [kind for kind, part in parts.items() for _ in range(len(part))]
    return ChosenQueries(kinds, query_C, first_rank_Q[query_C])


def choose_items(ids: pa.Array | pa.ChunkedArray, domains: Domains | None) -> np.ndarray:
    """Rows of `ids` whose neighbours are shown: chosen by the ids' hash, spread over the domains."""
    hash_N = text_hashes(pa.table({"item_id": ids}))
    code_N = np.zeros(len(ids), np.int64) if domains is None else domains.of(ids).astype(np.int64)
    order = np.lexsort((hash_N, code_N))
    code, start = np.unique(code_N[order], return_index=True)
    # The first of every domain, then the second of every domain, and so on; no domain (-1) comes last.
    turn = np.arange(len(order)) - np.repeat(start, np.diff([*start, len(order)]))
    domain = np.where(code_N[order] < 0, len(code), code_N[order])
    return order[np.lexsort((domain, turn))[:NEIGHBOURHOODS]]


def row_hashes(ranked: Ranked, searches: Table, items: Table | None) -> np.ndarray:
    """`text_hashes` of the table that a task's queries come from."""
    table = searches
    if ranked.queries_from == CATALOGUE:
        assert items is not None
        table = items
    return text_hashes(table.read([name for name in _HASHED if name in table.column_names]))


def text_hashes(table: pa.Table) -> np.ndarray:
    """One uint64 per row (N) of its texts, and of which of the rows with these texts it is."""
    columns = [column.cast(pa.large_string()) for column in table.columns]
    separator = pa.scalar("\x1f", pa.large_string())
    joined = pc.binary_join_element_wise(*columns, separator, null_handling="replace", null_replacement="")
    hash_N = pd.util.hash_array(joined.to_numpy(zero_copy_only=False), categorize=False)
    # Photos of one item have equal ids: without this they would all be chosen together.
    earlier_N = pd.Series(hash_N).groupby(hash_N).cumcount().to_numpy(np.uint64)
    return pd.util.hash_array(hash_N + earlier_N)
