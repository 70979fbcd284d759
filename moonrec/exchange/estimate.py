"""How long missing cells may take: like the finished ones of their kind, else a guess from table sizes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from moonrec.exchange.cells import Cell, Part

# Ours, on two cores: products that `compact` encodes in a second when no feature is in the cache, impressions
# that the judge learns from, and what any cell takes to begin.
_PRODUCTS, _IMPRESSIONS, _BEGIN = 15.0, 30_000.0, 4.0


class Clock:
    """Guesses seconds.

    Args:
        rows: of the tables `items`, `searches` and `impressions`; those that are not there have none.
        seeds: of the judge.
        known: what finished cells took, by part.
    """

    def __init__(self, rows: Mapping[str, int], seeds: int, known: Mapping[Part, Sequence[float]]) -> None:
        products = rows.get("items", 0) / _PRODUCTS
        self._seconds: dict[Part, float] = {
            "vectors": _BEGIN + products,
            # Features of products are in the cache by then, those of searches only for later versions.
            "evaluation": _BEGIN + (rows.get("searches", 0) / _PRODUCTS) + products / 10,
            "judge": _BEGIN + seeds * rows.get("impressions", 0) / _IMPRESSIONS,
        }
        self._seconds |= {part: statistics.median(seconds) for part, seconds in known.items()}

    def guess(self, cells: Iterable[Cell]) -> float:
        """Seconds for all of these."""
        return sum(self._seconds[cell.part] for cell in cells)
