"""What the judge reached with every version, and what the top-3 cosines tell without learning, by domain.

All versions are scored on the same test rows, so their sampling errors move together: users are the units
that would be drawn anew, and each user's influence on AUC and GAUC gives the covariance between versions, and
of the no-learning metric with the outcomes.

Shapes: V versions, S seeds, R test rows, C users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moonrec.auc_influence import auc_influence, gauc_influence
from moonrec.domains import Domains
from moonrec.exchange.measure_queries import LeftOut, spread_out
from moonrec.exchange.observations import ALL, Metric, Outcome
from moonrec.ids import codes_of
from moonrec.metrics import auc, gauc

FEWEST_IMPRESSIONS = 200
"""Ours: the AUC of fewer rows says nothing."""
OUTCOMES = ("auc", "gauc")
TOP3 = "top3_cosine"
_Part = tuple[str, NDArray[np.bool_]]
_Influence = Callable[[NDArray, NDArray, NDArray, int], NDArray[np.float64]]
_INFLUENCE: dict[str, _Influence] = {"auc": auc_influence, "gauc": gauc_influence}
# One user has a value, but nothing tells how it would differ among other users.
_NO_SPREAD = {
    "auc": "all test impressions are of one user",
    "gauc": "fewer than two users have both a click and a row without one",
}


@dataclass(frozen=True)
class TestRows:
    """The test impressions, which are the same for all versions.

    Attributes:
        user_R: numbers of users.
        label_R: 0 or 1.
        domain_R: the domain of the item shown, a number of `names`; -1 without one.
        names: of the domains.
    """

    user_R: NDArray[np.int64]
    label_R: NDArray[np.int64]
    domain_R: NDArray[np.int32]
    names: Sequence[str]

    @classmethod
    def read(cls, scores: Path, domains: Domains) -> TestRows:
        """From a `test_scores.parquet`."""
        table = pq.read_table(scores, columns=["user_id", "item_id", "label"])
        user_R, _ = codes_of(table["user_id"])
        label_R = table["label"].cast(pa.int64()).to_numpy()
        return cls(user_R, label_R, domains.of(table["item_id"]), domains.names)

    def parts(self) -> list[tuple[str, NDArray[np.bool_]]]:
        """All rows, and those of each domain."""
        whole: tuple[str, NDArray[np.bool_]] = (ALL, np.ones(len(self.user_R), bool))
        return [whole, *((name, self.domain_R == code) for code, name in enumerate(self.names))]


def click_measures(
    folders: Sequence[Path], seeds: int, domains: Domains
) -> tuple[list[Metric], list[Outcome], list[LeftOut]]:
    """The outcomes of the judge and the no-learning metrics.

    Args:
        folders: the judge's run on each version.
        seeds: how many the judge has, from 0 on.
        domains: of the catalogue.
    """
    files = [folder / "test_scores.parquet" for folder in folders]
    rows = TestRows.read(files[0], domains)
    left_out: list[LeftOut] = []
    parts = []
    for domain, in_R in rows.parts():
        reason = _unusable(rows.label_R[in_R])
        if reason is None:
            parts.append((domain, in_R))
        else:
            left_out.append(LeftOut("judge", domain, reason))
    judged, top3 = _Scored(), _Scored()
    there_V = np.array([TOP3 in pq.read_schema(file).names for file in files])
    for file, there in zip(files, there_V, strict=True):
        # Version by version: the scores of all of them at once may not fit in memory.
        judged.add(rows, parts, [_scores(file, name) for name in _seed_columns(seeds)])
        if there:
            top3.add(rows, parts, [_scores(file, TOP3)])
    metrics: list[Metric] = []
    outcomes: list[Outcome] = []
    for domain, _ in parts:
        influences: dict[str, NDArray[np.float64]] = {}
        for name in OUTCOMES:
            influence_VC = judged.influence(domain, name)
            if influence_VC is None:
                left_out.append(LeftOut(name, domain, _NO_SPREAD[name]))
                continue
            influences[name] = influence_VC
            value_VS = np.array(judged.values[domain, name])
            outcomes.append(Outcome(name, domain, value_VS, influence_VC @ influence_VC.T))
        for name in influences if there_V.any() else ():
            own = top3.influence(domain, name)
            if own is None:
                left_out.append(LeftOut(f"{TOP3}.{name}", domain, _NO_SPREAD[name]))
                continue
            values = np.array(top3.values[domain, name])[:, 0]
            metrics.append(spread_out(f"{TOP3}.{name}", domain, values, own, there_V, influences))
    return metrics, outcomes, left_out


class _Scored:
    """AUC and GAUC of scores by domain and name, a version after the other.

    Attributes:
        values: lists over versions of lists over seeds.
        influences: lists over versions of every user's influence (C) on the mean over seeds.
    """

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], list[list[float]]] = {}
        self.influences: dict[tuple[str, str], list[NDArray[np.float64]]] = {}

    def influence(self, domain: str, name: str) -> NDArray[np.float64] | None:
        """Of every user on each version's mean (V, C); None where values or their spread are undefined."""
        if not np.isfinite(self.values[domain, name]).all():
            return None
        influence_VC = np.stack(self.influences[domain, name])
        return influence_VC if np.isfinite(influence_VC).all() else None

    def add(self, rows: TestRows, parts: Sequence[_Part], scores: Sequence[NDArray[np.float64]]) -> None:
        for domain, in_R in parts:
            users, user_R = np.unique(rows.user_R[in_R], return_inverse=True)
            label_R = rows.label_R[in_R]
            for name in OUTCOMES:
                values = [_quality(name, user_R, label_R, score_R[in_R]) for score_R in scores]
                self.values.setdefault((domain, name), []).append(values)
                if np.isfinite(values).all():
                    found = [
                        _INFLUENCE[name](user_R, label_R, score_R[in_R], len(users)) for score_R in scores
                    ]
                    self.influences.setdefault((domain, name), []).append(np.mean(found, axis=0))


def _quality(
    name: str, user_R: NDArray[np.int64], label_R: NDArray[np.int64], score_R: NDArray[np.float64]
) -> float:
    """AUC or GAUC; NaN where it is undefined."""
    found = auc(label_R, score_R) if name == "auc" else gauc(user_R, label_R, score_R)
    return float("nan") if found is None else float(found)


def _seed_columns(seeds: int) -> list[str]:
    return ["score"] if seeds == 1 else [f"score_{seed}" for seed in range(seeds)]


def _scores(file: Path, column: str) -> NDArray[np.float64]:
    return np.asarray(pq.read_table(file, columns=[column])[column].to_numpy(), np.float64)


def _unusable(label_R: NDArray[np.int64]) -> str | None:
    if len(label_R) < FEWEST_IMPRESSIONS:
        return f"{len(label_R)} test impressions, fewer than {FEWEST_IMPRESSIONS}"
    if label_R.min() == label_R.max():
        return f"all {len(label_R):,} test impressions have the label {label_R[0]}"
    return None
