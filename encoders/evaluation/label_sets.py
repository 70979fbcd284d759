"""What items can be told to be: the categories of each level, and the values of each attribute.

A label is shown as items show it: a category as a category, an attribute as `name: value`. On two trained
encoders (simulated products and grocery photos, one seed each) that named .01 and .03 more of the categories
right than showing the label as a title, and .01 more of the attributes.

Shapes: N items of the catalogue, J items that a set judges, A attribute entries of all items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.products import Aspect
from moonrec.domains import category_levels
from moonrec.ids import codes_of
from moonrec.tables import Table

# Ours: an attribute that fewer items have gives no number worth reading; a report of more attributes, none
# that anybody reads; and beyond a thousand values an attribute is a name, such as a model number.
FEWEST_ITEMS, MOST_NAMES, MOST_VALUES = 20, 50, 1_000
_EXAMPLES = 3
_PAIRS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))


@dataclass(frozen=True)
class LabelSet:
    """Labels, and which of them is right for which item.

    Attributes:
        name: `level1`, or the attribute's.
        labels: at least two, as items tell them.
        aspect: what they tell of an item.
        item_J: rows of the items judged, ascending.
        class_J: the right label of each.
        unlisted: items that are not judged since their value is none of the commonest.
    """

    name: str
    labels: list[str]
    aspect: Aspect
    item_J: np.ndarray
    class_J: np.ndarray
    unlisted: int = 0


def category_label_sets(items: Table) -> tuple[list[LabelSet], dict[str, str]]:
    """One set per level of `A > B > C`, widest first, and why some level has none."""
    code_N, distinct = codes_of(items.read(["category"]).column("category"))
    paths = [*(category_levels(text.as_py()) for text in distinct), ()]  # a null's code, -1, is the last
    sets, left_out = [], {}
    for level in range(max(map(len, paths))):
        names = [path[level] if len(path) > level else None for path in paths]
        labels = sorted({name for name in names if name is not None})
        number = {name: place for place, name in enumerate(labels)}
        class_N = np.array([-1 if name is None else number[name] for name in names])[code_N]
        item_J = np.flatnonzero(class_N >= 0)
        if len(labels) < 2:
            left_out[f"level{level + 1}"] = f"all items with a category are {labels[0]!r}"
        else:
            sets.append(LabelSet(f"level{level + 1}", labels, Aspect.CATEGORY, item_J, class_N[item_J]))
    return sets, left_out


def attribute_label_sets(items: Table) -> tuple[list[LabelSet], dict[str, str]]:
    """One set per attribute that tells items apart, commonest first, and why others have none."""
    item_A, name_A, value_A = _entries(items)
    (name_code_A, names), (value_code_A, values) = codes_of(name_A), codes_of(value_A)
    # Sorted by name, then item; of an item that has an attribute twice the first one counts.
    place = np.unique(name_code_A * (items.count_rows() + 1) + item_A, return_index=True)[1]
    item_A, name_code_A, value_code_A = item_A[place], name_code_A[place], value_code_A[place]
    starts = np.searchsorted(name_code_A, np.arange(len(names) + 1))
    sets: list[LabelSet] = []
    few, alike, more = [], [], []
    for name in np.argsort(-np.diff(starts), kind="stable").tolist():
        part, title = slice(starts[name], starts[name + 1]), names[name].as_py()
        if part.stop - part.start < FEWEST_ITEMS:
            few.append(title)
        elif len(np.unique(value_code_A[part])) < 2:
            alike.append(title)
        elif len(sets) == MOST_NAMES:
            more.append(title)
        else:
            sets.append(_of_values(title, item_A[part], value_code_A[part], values))
    reasons = {
        f"fewer than {FEWEST_ITEMS} items have them": few,
        "all items have the same value": alike,
        f"{MOST_NAMES} others are commoner": more,
    }
    return sets, {some_of(titles): reason for reason, titles in reasons.items() if titles}


def _entries(items: Table) -> tuple[np.ndarray, pa.ChunkedArray, pa.ChunkedArray]:
    """Item, name and value of all attributes that have both, in the order of the table."""
    parts, first = [], 0
    for chunk in items.read(["attributes"]).column("attributes").chunks:
        pairs = chunk.cast(_PAIRS)
        flat = pc.list_flatten(pairs)
        name, value = (pc.utf8_trim_whitespace(flat.field(key)) for key in ("key", "value"))
        told = pc.fill_null(pc.and_(pc.not_equal(name, ""), pc.not_equal(value, "")), False)
        item = first + np.asarray(pc.list_parent_indices(pairs)).astype(np.int64)
        parts.append((item[np.asarray(told)], name.filter(told), value.filter(told)))
        first += len(chunk)
    item_A = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
    names, values = (pa.chunked_array([part[k] for part in parts], pa.string()) for k in (1, 2))
    return item_A, names, values


def _of_values(name: str, item_J: np.ndarray, code_J: np.ndarray, values: pa.Array) -> LabelSet:
    codes, class_J, counts = np.unique(code_J, return_inverse=True, return_counts=True)
    common = np.sort(np.argsort(-counts, kind="stable")[:MOST_VALUES])
    place = np.full(len(codes), -1)
    place[common] = np.arange(len(common))
    class_J = place[class_J]
    judged = class_J >= 0
    labels = [f"{name}: {value}" for value in values.take(pa.array(codes[common])).to_pylist()]
    unlisted = int((~judged).sum())
    return LabelSet(name, labels, Aspect.ATTRIBUTES, item_J[judged], class_J[judged], unlisted)


def some_of(names: Sequence[str], most: int = _EXAMPLES) -> str:
    """The first of several names, and how many others there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} others"
