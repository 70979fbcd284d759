"""What of the behaviour was bought: round 2 trains on it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from encoders.pairs import NoPairs, PairSource, purchase_types
from moonrec.errors import UserError
from moonrec.tables import Table


@dataclass(frozen=True)
class Purchases:
    """What of one source was bought, and which events that means (none: the log does not tell)."""

    source: PairSource
    types: tuple[str, ...]


def find_purchases(
    sources: Sequence[PairSource],
    tables: Mapping[str, Table],
    asked: Sequence[str],
    pairs_of: Callable[[str, tuple[str, ...]], PairSource],
) -> list[Purchases]:
    """Of each source the pairs that were bought; all of them where the log does not tell, or too little.

    Args:
        sources: pairs of all behaviour.
        tables: the tables behind them, by the sources' names.
        asked: events that are purchases; none takes those whose name says so.
        pairs_of: the pairs of a source's events of certain types.

    Raises:
        UserError: an event of `--purchase-types` occurs nowhere.
    """
    types = {source.name: _types(tables[source.name], asked) for source in sources}
    if asked and not any(types.values()):
        raise UserError(f"--purchase-types {','.join(asked)}: no such event in {' or '.join(types)}")
    bought = []
    for earlier in sources:
        name, kinds = earlier.name, types[earlier.name]
        try:
            later = pairs_of(name, kinds).with_validation_of(earlier) if kinds else earlier
        except NoPairs:
            later = earlier
        enough = later is not earlier and len(later.training) > 1
        bought.append(Purchases(later if enough else earlier, kinds if enough else ()))
    return bought


def _types(table: Table, asked: Sequence[str]) -> tuple[str, ...]:
    if not asked:
        return purchase_types(table)
    if "event" not in table.column_names:
        return ()
    kinds = set(table.read(["event"]).column("event").to_pylist())
    return tuple(kind for kind in asked if kind in kinds)
