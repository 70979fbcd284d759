"""Category domains: the few wide groups of a catalogue that results are also told for one by one.

The domain of an item is the name of its category at one level of `A > B > C`. Every part of moonrec that
tells results per domain asks here, so that the same name means the same items everywhere.

Shapes: N items of the catalogue, n ids asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moonrec.errors import UserError
from moonrec.ids import Ids, codes_of, rows_of
from moonrec.tables import Table

# Ours: more groups than this are read by nobody, and the small ones hold too few users to say anything.
MOST_DOMAINS = 12
OTHER = "other"
# Studies over domains call the whole catalogue so; a category of that name would be taken for it.
_WHOLE, _WHOLE_AS_CATEGORY = "all", "all (category)"
NONE = -1


@dataclass(frozen=True)
class Domains:
    """The domain of every item of a catalogue.

    Attributes:
        ids: the catalogue's item ids (N), in its order.
        code_N: int32, a number of `names` for every item; -1 where it has no category at the level.
        names: the domains, the one with most items first; `other`, where it stands for the rest, last;
            never `all`: a category of that name is `all (category)`.
        level: the level of the categories, from 1; 0 where the catalogue has no domains.
    """

    ids: pa.Array
    code_N: NDArray[np.int32]
    names: list[str]
    level: int

    def of(self, ids: Ids) -> NDArray[np.int32]:
        """The domain's number for each of the ids (n), int32; -1 for an unknown item or one without."""
        row_n = rows_of(ids, self.ids)
        return np.append(self.code_N, np.int32(NONE))[row_n]

    def names_of(self, codes: NDArray[np.integer]) -> pa.Array:
        """Numbers (n) as Arrow strings; null for -1."""
        place = pa.array(codes, pa.int32(), mask=np.asarray(codes) < 0)
        return pa.array(self.names, pa.string()).take(place)


def category_levels(category: str | None) -> tuple[str, ...]:
    """The levels of a category written `A > B > C`, from the widest; () for none."""
    return tuple(level for part in (category or "").split(">") if (level := part.strip()))


def item_domains(items: Table, level: int | None = None) -> Domains:
    """The domains of a catalogue, at most `MOST_DOMAINS`.

    Where there are more names than that, the most frequent ones are kept and the others are `other`.

    Args:
        items: the catalogue; without the column `category` it has no domains.
        level: of `A > B > C`, from 1; None: the first one at which the categories differ. Where they differ
            at none there are no domains: one would be the whole catalogue.

    Raises:
        UserError: no category has the level asked for.
    """
    has_categories = "category" in items.column_names
    table = items.read(["item_id", *(["category"] if has_categories else [])])
    ids = table.column("item_id").combine_chunks()
    paths: list[tuple[str, ...]] = [()]
    path_N = np.zeros(len(ids), np.int64)
    if has_categories:
        path_N, distinct = codes_of(table.column("category"))
        paths = [*(category_levels(text.as_py()) for text in distinct), ()]  # a null's code, -1, is the last
    if level is None:
        level = _first_that_differs(paths)
    elif not 1 <= level <= max(map(len, paths)):
        raise UserError(
            f"--domain-level {level}: the categories of {items.path} have {max(map(len, paths))} levels; "
            "ask for one of these, from 1"
        )
    names = [_domain_name(path[level - 1]) if 0 < level <= len(path) else None for path in paths]
    kept, code_of_path = _numbered(names, path_N)
    return Domains(ids, code_of_path[path_N], kept, level)


def _domain_name(category: str) -> str:
    return _WHOLE_AS_CATEGORY if category == _WHOLE else category


def _first_that_differs(paths: Sequence[tuple[str, ...]]) -> int:
    for level in range(max(map(len, paths))):
        if len({path[level] for path in paths if len(path) > level}) > 1:
            return level + 1
    return 0


def _numbered(names: Sequence[str | None], path_N: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int32]]:
    """The names kept, and the number of each path's name among them, int32."""
    items: dict[str, int] = {}
    for name, count in zip(names, np.bincount(path_N % len(names), minlength=len(names)), strict=True):
        if name is not None:
            items[name] = items.get(name, 0) + int(count)
    kept = sorted(items, key=lambda name: (-items[name], name))
    if len(kept) > MOST_DOMAINS:
        kept = [name for name in kept[: MOST_DOMAINS - 1] if name != OTHER] + [OTHER]
    number = {name: place for place, name in enumerate(kept)}
    rest = number.get(OTHER, NONE)
    codes = [NONE if name is None else number.get(name, rest) for name in names]
    return kept, np.array(codes, np.int32)
