"""How long missing cells may take: like the finished ones of their kind, else a guess from table sizes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from moonrec.exchange.cells import Cell, Pace

# Ours, on two cores: products that `compact` encodes in a second when no feature is in the cache, impressions
# that the judge learns from, and what any cell takes to begin.
_PRODUCTS, _IMPRESSIONS, _BEGIN = 15.0, 30_000.0, 4.0
# Vectors of a set that are copied in a second, and cosines of its queries that are ranked in one.
_COPIED, _COSINES, _BEGIN_READY = 100_000.0, 1e9, 1.0


class Clock:
    """Guesses seconds.

    Args:
        rows: of the tables `items`, `searches` and `impressions`; those that are not there have none.
        seeds: of the judge.
        known: what finished cells took, by kind.
    """

    def __init__(self, rows: Mapping[str, int], seeds: int, known: Mapping[Pace, Sequence[float]]) -> None:
        items, searches = rows.get("items", 0), rows.get("searches", 0)
        self._seconds: dict[Pace, float] = {
            ("vectors", False): _BEGIN + items / _PRODUCTS,
            # Features of products are in the cache by then, those of searches only for later versions.
            ("evaluation", False): _BEGIN + (searches + items / 10) / _PRODUCTS,
            ("vectors", True): _BEGIN_READY + items / _COPIED,
            ("evaluation", True): _BEGIN_READY + items * searches / _COSINES,
            ("judge", False): _BEGIN + seeds * rows.get("impressions", 0) / _IMPRESSIONS,
        }
        self._seconds |= {pace: statistics.median(seconds) for pace, seconds in known.items()}

    def guess(self, cells: Iterable[Cell]) -> float:
        """Seconds for all of these."""
        return sum(self._seconds[cell.pace] for cell in cells)
