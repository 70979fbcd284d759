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
    Part,
    Table,
    common_rows,
    first_known,
    mean_metric,
    parts,
    spread_out,
)
from moonrec.exchange.observations import Metric
from moonrec.ids import codes_of, rows_of
from moonrec.macro_f1 import macro_f1

FEWEST_ITEMS = 20
"""Ours: the share of fewer says nothing."""
CLASSIFICATION, ATTRIBUTES, AGREEMENT = "classification", "attributes", "agreement.image_text"


@dataclass(frozen=True)
class _Judged:
    """The items of one label set that every version judged.

    Attributes:
        name: of the level or attribute.
        item_I: numbers of the items among all of the task.
        parts: the domains.
        right_I: codes of the right labels.
        said_VI: codes of what each version said.
    """

    name: str
    item_I: NDArray[np.int64]
    parts: Sequence[Part]
    right_I: NDArray[np.int32]
    said_VI: NDArray[np.int32]


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
        for domain, in_I in one.parts:
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
    places = common_rows(_codes([table["item_id"] for table in have]))[1]
    domain_I = first_known([t["domain"].take(pa.array(at)) for t, at in zip(have, places, strict=True)])
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
    # An item that the first version lacks is no common one.
    items = pc.unique(of_task[0]["item_id"])
    found = []
    for name in of_task[0]["name"].unique().to_pylist():
        one = _judged(name, [table.filter(pc.equal(table["name"], name)) for table in of_task], items)
        if one is not None:
            found.append(one)
    return found


def _judged(name: str, tables: Sequence[pa.Table], items: pa.Array) -> _Judged | None:
    """One label set; None where there is no item that every version judged."""
    have, numbers = [], []
    for table in tables:
        # A null, of an item that shows nothing, is no answer.
        item_J = rows_of(table["item_id"], items)
        judged_J = (item_J >= 0) & pc.is_valid(table["predicted"]).to_numpy()
        have.append(table.filter(pa.array(judged_J)))
        numbers.append(item_J[judged_J])
    item_I, places = common_rows(numbers)
    if not len(item_I):
        return None
    have = [table.take(pa.array(at)) for table, at in zip(have, places, strict=True)]
    words = _codes([have[0]["label"], *(table["predicted"] for table in have)])
    domain_I = first_known([table["domain"] for table in have])
    # All attributes are held at once, of all versions: half the bytes count.
    said_VI = np.stack([word_I.astype(np.int32) for word_I in words[1:]])
    return _Judged(name, item_I, parts(domain_I), words[0].astype(np.int32), said_VI)


def _attributes(sets: Sequence[_Judged], there_V: NDArray[np.bool_]) -> list[Metric]:
    """Attributes count alike, however many items have them."""
    if not sets:
        return []
    width = 1 + max(int(one.item_I.max(initial=0)) for one in sets)
    parts_of = [dict(one.parts) for one in sets]
    metrics = []
    # Domain by domain: the influences of all of them at once may not fit in memory.
    for domain in dict.fromkeys(domain for own in parts_of for domain in own):
        values = []
        total = np.zeros((len(sets[0].said_VI), width))
        for one, own in zip(sets, parts_of, strict=True):
            in_I = own.get(domain)
            if in_I is None or in_I.sum() < FEWEST_ITEMS:
                continue
            correct_VI = (one.said_VI[:, in_I] == one.right_I[in_I]).astype(np.float64)
            value_V = correct_VI.mean(axis=1)
            total[:, one.item_I[in_I]] += (correct_VI - value_V[:, None]) / correct_VI.shape[1]
            values.append(value_V)
        if values:
            mean, influence = np.mean(values, axis=0), total / len(values)
            metrics.append(spread_out(f"{ATTRIBUTES}.accuracy", domain, mean, influence, there_V))
    return metrics


def _codes(columns: Sequence[pa.ChunkedArray]) -> list[NDArray[np.int64]]:
    """Strings as numbers that mean the same in all columns; nulls are -1."""
    chunks = [chunk.cast(pa.string()) for column in columns for chunk in column.chunks]
    code, _ = codes_of(pa.chunked_array(chunks, pa.string()))
    edges = np.cumsum([len(column) for column in columns])[:-1]
    return [np.asarray(one, np.int64) for one in np.split(code, edges)]


def _too_few(name: str, domain: str, items: int) -> LeftOut:
    return LeftOut(name, domain, f"{items} items, fewer than {FEWEST_ITEMS}")
