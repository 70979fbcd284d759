"""What the papers report of the same rows, and where ours says something else.

MOON2.0 (https://arxiv.org/abs/2511.12449) gives numbers: Recall@10 and accuracy, in percent, on its own test
set. MOON (https://arxiv.org/abs/2508.11999) is quoted with an order only: which part's absence costs most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moonrec.ablation.metrics import HEADLINE
from moonrec.ablation.study import FULL
from moonrec.ablation.table import RowResult

# Columns in the order of HEADLINE.
_MOON2 = {
    FULL: (94.21, 91.08, 63.09, 73.12, 64.91, 68.08, 84.29),
    "without-moe": (78.45, 74.59, 51.29, 62.16, 56.21, 62.55, 75.62),
    "without-alignment": (67.45, 65.72, 37.99, 31.45, 23.35, 57.12, 67.24),
    "without-augmentation": (80.62, 78.17, 59.69, 64.79, 58.68, 66.21, 77.77),
    "without-filter": (80.00, 83.40, 60.63, 70.40, 63.21, 67.99, 84.04),
}
# Largest cost first.
_ORDERS = {"moon": ("without-regions", "without-guidance", "without-spatial-temporal")}


@dataclass(frozen=True)
class DropBeside:
    """A part's absence in one metric, in points (full − without): the paper's cost beside ours."""

    row: str
    label: str
    metric: str
    paper: float
    ours: float
    verdict: str


@dataclass(frozen=True)
class OrderBeside:
    """Parts from the costliest absence to the cheapest: the paper's order beside ours."""

    study: str
    metric: str | None
    paper: tuple[str, ...]
    ours: tuple[str, ...]
    verdict: str


def paper_drop(study: str, row: str, metric: str) -> float | None:
    """What a part's absence costs in the paper, in points; None where it does not say."""
    if study != "moon2" or row not in _MOON2 or row == FULL or metric not in HEADLINE:
        return None
    column = HEADLINE.index(metric)
    return round(_MOON2[FULL][column] - _MOON2[row][column], 2)


def drops_beside(results: Sequence[RowResult]) -> list[DropBeside]:
    """Every row and metric that both the paper and this run have."""
    found = []
    for result in results:
        for metric, difference in result.differences.items():
            paper = paper_drop(result.study, result.row, metric)
            if paper is not None:
                # Zero has no sign: -0.0 would be shown with one.
                ours = -100 * difference.mean + 0.0
                verdict = _verdict(paper, ours, difference.excludes_zero())
                found.append(DropBeside(result.key, result.label, metric, paper, ours, verdict))
    return found


def _verdict(paper: float, ours: float, excludes_zero: bool | None) -> str:
    if ours == 0:
        return "no effect here"
    told = "same sign" if (ours > 0) == (paper > 0) else "opposite sign"
    return told if excludes_zero else f"{told}, not told from 0"


def orders_beside(results: Sequence[RowResult]) -> list[OrderBeside]:
    """The order of parts per metric of MOON2.0's table, and MOON's over the mean of all of them.

    Only where at least two parts were run.
    """
    found = []
    moon2 = [result for result in results if result.study == "moon2"]
    for metric in HEADLINE:
        ours = {r.row: -r.differences[metric].mean for r in moon2 if metric in r.differences}
        paper = {name: drop for name in ours if (drop := paper_drop("moon2", name, metric)) is not None}
        found.append(_order("moon2", metric, tuple(sorted(paper, key=lambda n: -paper[n])), ours))
    for study, order in _ORDERS.items():
        costs = {r.row: cost for r in results if r.study == study and (cost := _mean_cost(r)) is not None}
        found.append(_order(study, None, tuple(name for name in order if name in costs), costs))
    return [one for one in found if len(one.paper) > 1]


def _mean_cost(result: RowResult) -> float | None:
    drops = [-result.differences[metric].mean for metric in HEADLINE if metric in result.differences]
    return sum(drops) / len(drops) if drops else None


def _order(study: str, metric: str | None, paper: tuple[str, ...], costs: Mapping[str, float]) -> OrderBeside:
    ours = tuple(sorted(paper, key=lambda name: -costs[name]))
    if len({costs[name] for name in paper}) < len(paper):
        verdict = "ties here"
    else:
        verdict = "same order" if ours == paper else "another order"
    return OrderBeside(study, metric, paper, ours, verdict)
