"""A simulated marketplace with known truth, in the tables that moonrec reads.

    from moonrec.simulation import simulate
    simulate(Path("market"), items=2000, users=2000, seed=0)

Some taste shows only in the pictures, some only in the words; ids say little about new items; the probability
behind every test label is kept, so the best AUC that any model could reach is known.
"""

from __future__ import annotations

from moonrec.simulation.marketplace import simulate

__all__ = ["simulate"]
