"""The judge: one click model, the same for every version and, by its fingerprint, for every team.

Rates of two teams can be compared where the judge's fingerprint is the same: the same options and seeds, the
same training and test rows, events and catalogue, and the same versions of what computes.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonrec.runs import versions


@dataclass(frozen=True)
class Judge:
    """The click model that all versions meet.

    Attributes:
        options: all options of `moonrec train-ctr` that decide its result, but for tables and vectors.
        inputs: a fingerprint per table that it reads.
        seeds: how many it has, from 0 on.
    """

    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    seeds: int

    @property
    def cell_options(self) -> dict[str, Any]:
        """What decides the judge's run on any vectors."""
        return {**self.options, "seeds": self.seeds}

    @property
    def fingerprint(self) -> str:
        """SHA-256, hex, over options, inputs and the versions of what computes."""
        text = json.dumps([self.cell_options, dict(self.inputs), versions()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As `metrics.json` holds it."""
        return {
            "fingerprint": self.fingerprint,
            "options": dict(self.options),
            "inputs": dict(self.inputs),
            "seeds": self.seeds,
            "versions": versions(),
        }


def judged_values(run: Path) -> dict[str, Any]:
    """AUC and GAUC that a judge's run reached on the whole test table, over its seeds."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    spread = metrics.get("spread")
    return {
        name: summary_of(spread[name]["values"] if spread else [metrics["test"][name]])
        for name in ("auc", "gauc")
    }


def summary_of(values: list[float | None]) -> dict[str, Any]:
    """Mean and standard deviation (n − 1) of the values of all seeds; None where one is undefined."""
    known = [value for value in values if value is not None]
    whole = len(known) == len(values)
    return {
        "values": values,
        "mean": statistics.fmean(known) if whole else None,
        "sd": statistics.stdev(known) if whole and len(known) > 1 else None,
    }
