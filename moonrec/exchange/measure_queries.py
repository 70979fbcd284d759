"""Retrieval metrics of the versions, from the queries that all of them answered.

Versions are compared query by query, so their sampling errors move together; that covariance is measured, not
assumed away.

Shapes: V versions, Q queries, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moonrec.exchange.observations import ALL, Metric
from moonrec.ids import codes_of

FEWEST_QUERIES = 20
"""Ours: the mean of fewer says nothing."""
QUERY_METRICS = ("hit@1", "hit@5", "hit@10", "hit@50", "recall@10", "mrr", "ndcg@10", "contrastive_loss")
_TWINS = {"recall@10": "hit@10"}


@dataclass(frozen=True)
class LeftOut:
    """A metric, an outcome or a domain that there is no rate of, and why."""

    name: str
    domain: str
    reason: str


Table: TypeAlias = "pa.Table | None"
"""A version's rows; None for a version that has none."""
Part: TypeAlias = tuple[str, NDArray[np.bool_]]
"""A domain, and which queries or items are in it."""


def mean_metric(name: str, domain: str, value_VQ: NDArray[np.floating], there_V: NDArray[np.bool_]) -> Metric:
    """The metric that is a mean over paired queries or items.

    Args:
        name: of the metric.
        domain: of the queries.
        value_VQ: per version that is there.
        there_V: which versions have it, of all.
    """
    mean = value_VQ.mean(axis=1)
    centred_VQ = value_VQ - mean[:, None]
    return spread_out(name, domain, mean, centred_VQ / value_VQ.shape[1], there_V)


def spread_out(
    name: str,
    domain: str,
    values: NDArray[np.floating],
    influence: NDArray[np.floating],
    there_V: NDArray[np.bool_],
    shared: Mapping[str, NDArray[np.floating]] | None = None,
) -> Metric:
    """A metric from the values and influences (versions that are there × units) of what it is made of.

    Args:
        name: of the metric.
        domain: of the units.
        values: per version that is there.
        influence: of every unit on each of these values.
        there_V: which versions have it, of all.
        shared: per outcome the influences (V × the same units) on its values.
    """
    value_V = np.full(len(there_V), np.nan)
    value_V[there_V] = values
    all_VU = np.zeros((len(there_V), influence.shape[1]))
    all_VU[there_V] = influence
    common = {outcome: all_VU @ other_VU.T for outcome, other_VU in (shared or {}).items()}
    return Metric(name, domain, value_V, all_VU @ all_VU.T, common)


def common_rows(keys: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """The keys that all have, ascending, and where they stand in each; keys occur once."""
    shared = keys[0]
    for other in keys[1:]:
        shared = np.intersect1d(shared, other)
    shared = np.sort(shared)
    places = []
    for one in keys:
        order = np.argsort(one, kind="stable")
        places.append(order[np.searchsorted(one[order], shared)])
    return shared, places


def query_metrics(tables: Sequence[Table]) -> tuple[list[Metric], list[LeftOut]]:
    """Every metric of every retrieval task, in all and by domain.

    Args:
        tables: `queries.parquet` of each version, of its main entrant; None for one without.
    """
    metrics: list[Metric] = []
    left_out: list[LeftOut] = []
    tasks = dict.fromkeys(task for table in tables if table for task in table["task"].unique().to_pylist())
    for task in tasks:
        found = [None if table is None else table.filter(pc.equal(table["task"], task)) for table in tables]
        _add_task(task, [t if t is not None and len(t) else None for t in found], metrics, left_out)
    return metrics, left_out


def _add_task(task: str, tables: Sequence[Table], metrics: list[Metric], left_out: list[LeftOut]) -> None:
    there_V = np.array([table is not None for table in tables])
    have = [table for table in tables if table is not None]
    rows_of = [table["query_row"].to_numpy() for table in have]
    shared, places = common_rows(rows_of)
    asked = max(map(len, rows_of))
    if len(shared) < asked:
        left_out.append(
            LeftOut(
                f"retrieval.{task}", ALL,
                f"versions are compared on the {len(shared):,} of {asked:,} queries that all of them answer",
            )
        )  # fmt: skip
    domain_Q = first_known(
        [table["domain"].take(pa.array(at)) for table, at in zip(have, places, strict=True)]
    )
    column = {
        name: np.stack([_numbers(table, name)[at] for table, at in zip(have, places, strict=True)])
        for name in QUERY_METRICS
        if name in have[0].column_names
    }
    for name, twin in _TWINS.items():
        if name in column and twin in column and np.array_equal(column[name], column[twin]):
            del column[name]
            reason = f"is {twin} here, since every query has one positive"
            left_out.append(LeftOut(f"retrieval.{task}.{name}", ALL, reason))
    for domain, in_Q in parts(domain_Q):
        if in_Q.sum() < FEWEST_QUERIES:
            reason = f"{int(in_Q.sum())} queries, fewer than {FEWEST_QUERIES}"
            left_out.append(LeftOut(f"retrieval.{task}", domain, reason))
            continue
        for name, value_VQ in column.items():
            known_Q = in_Q & np.isfinite(value_VQ).all(axis=0)
            if known_Q.sum() >= FEWEST_QUERIES:
                metrics.append(mean_metric(f"retrieval.{task}.{name}", domain, value_VQ[:, known_Q], there_V))


def first_known(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """The domain of each query: of the first version that knows one (null where none does)."""
    found = columns[0]
    for other in columns[1:]:
        found = pc.coalesce(found, other)
    return found


def parts(domain_Q: pa.ChunkedArray) -> list[Part]:
    """All of it, and every domain, by name."""
    code_Q, names = codes_of(domain_Q)
    known = sorted((name, code) for code, name in enumerate(names.to_pylist()) if name is not None)
    return [(ALL, np.ones(len(code_Q), bool)), *((name, code_Q == code) for name, code in known)]


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)
