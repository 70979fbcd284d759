"""Classification, attributes and image-text agreement of the versions, from the items that all judged.

Macro F1 is no mean over items; its influence per item is that of `moonrec.macro_f1`.

Shapes: V versions, I items, A attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moonrec.exchange.measure_queries import (
    LeftOut,
    Table,
    common_rows,
    domains_of,
    mean_metric,
    parts,
    spread_out,
)
from moonrec.exchange.observations import Metric
from moonrec.ids import codes_of
from moonrec.macro_f1 import macro_f1

FEWEST_ITEMS = 20
"""Ours: the share of fewer says nothing."""
CLASSIFICATION, ATTRIBUTES, AGREEMENT = "classification", "attributes", "agreement.image_text"


@dataclass(frozen=True)
class _Judged:
    """The items of one label set that every version judged.

    Attributes:
        name: of the level or attribute.
        item_I: numbers of the items among all.
        domain_I: their domains.
        right_I: codes of the right labels.
        said_VI: codes of what each version said.
    """

    name: str
    item_I: NDArray[np.int64]
    domain_I: NDArray[np.object_]
    right_I: NDArray[np.int64]
    said_VI: NDArray[np.int64]


def label_metrics(tables: Sequence[Table]) -> tuple[list[Metric], list[LeftOut]]:
    """Accuracy and F1 of every category level, and the mean accuracy of attributes, by domain.

    Args:
        tables: `labels.parquet` of each version, of its main entrant; None for one without.
    """
    there_V = np.array([table is not None and len(table) > 0 for table in tables])
    have = [table for table, there in zip(tables, there_V, strict=True) if there and table is not None]
    if not have:
        return [], []
    metrics: list[Metric] = []
    left_out: list[LeftOut] = []
    for one in _sets(have, CLASSIFICATION):
        for domain, in_I in parts(one.domain_I):
            if in_I.sum() < FEWEST_ITEMS:
                left_out.append(_too_few(f"{CLASSIFICATION}.{one.name}", domain, int(in_I.sum())))
                continue
            right_I, said_VI = one.right_I[in_I], one.said_VI[:, in_I]
            correct_VI = (said_VI == right_I).astype(np.float64)
            name = f"{CLASSIFICATION}.{one.name}"
            metrics.append(mean_metric(f"{name}.accuracy", domain, correct_VI, there_V))
            f1 = [macro_f1(right_I, said_I) for said_I in said_VI]
            values, influence = np.array([v for v, _ in f1]), np.stack([i for _, i in f1])
            metrics.append(spread_out(f"{name}.f1", domain, values, influence, there_V))
    metrics += _attributes(_sets(have, ATTRIBUTES), there_V)
    return metrics, left_out


def agreement_metrics(tables: Sequence[Table]) -> tuple[list[Metric], list[LeftOut]]:
    """How much closer an item's picture is to its own words than to those of others, by domain.

    Args:
        tables: `agreement.parquet` of each version, of its main entrant; None for one without.
    """
    there_V = np.array([table is not None and len(table) > 0 for table in tables])
    have = [table for table, there in zip(tables, there_V, strict=True) if there and table is not None]
    if not have:
        return [], []
    places = common_rows(item_codes(have))[1]
    domain_I = domains_of([t["domain"].take(pa.array(at)) for t, at in zip(have, places, strict=True)])
    value_VI = np.stack(
        [
            pc.subtract(t["own"].cast(pa.float64()), t["others"].cast(pa.float64())).to_numpy()[at]
            for t, at in zip(have, places, strict=True)
        ]
    )
    metrics: list[Metric] = []
    left_out: list[LeftOut] = []
    for domain, in_I in parts(domain_I):
        if in_I.sum() < FEWEST_ITEMS:
            left_out.append(_too_few(AGREEMENT, domain, int(in_I.sum())))
        else:
            metrics.append(mean_metric(AGREEMENT, domain, value_VI[:, in_I], there_V))
    return metrics, left_out


def _sets(tables: Sequence[pa.Table], task: str) -> list[_Judged]:
    """The label sets of a task that every version has."""
    of_task = [table.filter(pc.equal(table["task"], task)) for table in tables]
    names = of_task[0]["name"].unique().to_pylist()
    names_of = [np.array(table["name"].to_pylist(), dtype=object) for table in of_task]
    items = item_codes(of_task)
    words = _codes([table[column] for column in ("label", "predicted") for table in of_task])
    labels, said = words[: len(of_task)], words[len(of_task) :]
    found = []
    for name in names:
        # A null, of an item that shows nothing, has the code -1.
        rows = [np.flatnonzero((own == name) & (one >= 0)) for own, one in zip(names_of, said, strict=True)]
        item_I, places = common_rows([one[at] for one, at in zip(items, rows, strict=True)])
        if not len(item_I):
            continue
        rows = [row[at] for row, at in zip(rows, places, strict=True)]
        domains = [table["domain"].take(pa.array(at)) for table, at in zip(of_task, rows, strict=True)]
        said_VI = np.stack([one[at] for one, at in zip(said, rows, strict=True)])
        found.append(_Judged(name, item_I, domains_of(domains), labels[0][rows[0]], said_VI))
    return found


def _attributes(sets: Sequence[_Judged], there_V: NDArray[np.bool_]) -> list[Metric]:
    """Attributes count alike, however many items have them."""
    if not sets:
        return []
    width = 1 + max(int(one.item_I.max(initial=0)) for one in sets)
    domains = dict.fromkeys(domain for one in sets for domain, _ in parts(one.domain_I))
    metrics = []
    for domain in domains:
        values, influences = [], []
        for one in sets:
            in_I = dict(parts(one.domain_I)).get(domain)
            if in_I is None or in_I.sum() < FEWEST_ITEMS:
                continue
            correct_VI = (one.said_VI[:, in_I] == one.right_I[in_I]).astype(np.float64)
            value_V = correct_VI.mean(axis=1)
            influence = np.zeros((len(value_V), width))
            influence[:, one.item_I[in_I]] = (correct_VI - value_V[:, None]) / correct_VI.shape[1]
            values.append(value_V)
            influences.append(influence)
        if values:
            mean, influence = np.mean(values, axis=0), np.mean(influences, axis=0)
            metrics.append(spread_out(f"{ATTRIBUTES}.accuracy", domain, mean, influence, there_V))
    return metrics


def item_codes(tables: Sequence[pa.Table]) -> list[NDArray[np.int64]]:
    """The items of several tables as numbers that mean the same in all."""
    return _codes([table["item_id"] for table in tables])


def _codes(columns: Sequence[pa.ChunkedArray]) -> list[NDArray[np.int64]]:
    """Strings as numbers that mean the same in all columns; nulls are -1."""
    chunks = [chunk.cast(pa.string()) for column in columns for chunk in column.chunks]
    code, _ = codes_of(pa.chunked_array(chunks, pa.string()))
    edges = np.cumsum([len(column) for column in columns])[:-1]
    return [np.asarray(one, np.int64) for one in np.split(code, edges)]


def _too_few(name: str, domain: str, items: int) -> LeftOut:
    return LeftOut(name, domain, f"{items} items, fewer than {FEWEST_ITEMS}")
