"""What is evaluated against each baseline, query by query and item by item.

Both are measured on the same units, so what makes a query hard for both does not blur their difference.
Differences are tested by flipping signs (`moonrec.bootstrap.sign_flip_p`): of each unit's difference for a
mean; for macro F1, which is no mean over items, of each item's share in the difference to first order
(`moonrec.macro_f1`). Holm's correction is over all tests against one baseline but those of single domains;
metrics that differ alike on every unit, as hit@1 and recall@1 do, are one test.

Shapes: Q queries that both answered, J items that both judged, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from encoders.evaluation.label_bootstrap import LABEL_METRICS, resampled_scores
from encoders.evaluation.pairing import common_rows, matched, paired_queries, whose
from encoders.evaluation.results import LabelResults, QueryResults, Results
from encoders.evaluation.summary import FEWEST, IMAGE_TEXT, Resampling, defined
from encoders.evaluation.tasks import AGREEMENT, RETRIEVAL
from moonrec.bootstrap import holm, interval, resampled_means, sign_flip_p
from moonrec.macro_f1 import macro_f1

Comparison = dict[str, Any]
# Ours: ranking among fewer items is easier; one item in a hundred moves a hit rate by less than .01.
LEAST_SHARED = 0.99
_CROSSING = {task.name for task in RETRIEVAL if task.crosses}


@dataclass
class Compared:
    """An entrant against one baseline.

    Attributes:
        differences: main - baseline, one entry per number that both have.
        uncompared: why other tasks are not compared.
        paired: per retrieval task the number of queries of `main`, of `baseline`, and of those in `both`.
    """

    differences: list[Comparison] = field(default_factory=list)
    uncompared: dict[str, str] = field(default_factory=dict)
    paired: dict[str, dict[str, int]] = field(default_factory=dict)


def compare(
    main: Results,
    baseline: Results,
    catalogue: Mapping[str, int],
    domains: Sequence[str],
    resampling: Resampling,
) -> Compared:
    """Every number that both have, as differences main - baseline, and why the others are not compared.

    Args:
        main: what is evaluated.
        baseline: what it is held against.
        catalogue: how the vectors that the two rank differ, by `entrants.check_same_catalogue`.
        domains: names of the domains, by their numbers.
        resampling: of the intervals.
    """
    compared = Compared()
    tests: list[_Test] = []
    for queries, other in matched(main.queries, baseline.queries, lambda one: one.task, compared.uncompared):
        if reason := _incomparable(queries, other, catalogue):
            compared.uncompared[queries.task] = reason
        else:
            tests += _of_queries(queries, other, domains, resampling, compared)
    for labels, said in matched(
        main.labels, baseline.labels, lambda one: f"{one.task}.{one.labels.name}", compared.uncompared
    ):
        tests += _of_labels(labels, said, domains, resampling, compared)
    tests += _of_agreement(main, baseline, domains, resampling, compared)
    _correct(tests)
    compared.differences = [{"baseline": baseline.name} | one.comparison for one in tests]
    return compared


@dataclass(frozen=True)
class _Test:
    """A comparison, and the number of the first metric of its task that differs alike on every unit."""

    comparison: Comparison
    alike: int


def _correct(tests: Sequence[_Test]) -> None:
    """Set `p_holm` of what is not of a single domain."""
    whole = [one for one in tests if one.comparison["domain"] is None]
    distinct = {(one.comparison["task"], one.alike): one.comparison["p"] for one in whole}
    adjusted = dict(zip(distinct, holm(list(distinct.values())), strict=True))
    for one in whole:
        one.comparison["p_holm"] = adjusted[one.comparison["task"], one.alike]


def _incomparable(one: QueryResults, other: QueryResults, catalogue: Mapping[str, int]) -> str | None:
    if one.queries_from != other.queries_from:
        return f"its queries are of the {one.queries_from}, the baseline's of the {other.queries_from}"
    if one.task in _CROSSING or not catalogue:  # each encodes the items anew
        return None
    missing, others, shared = catalogue["missing"], catalogue["others"], catalogue["shared"]
    if shared >= LEAST_SHARED * (shared + missing + others):
        return None
    return (
        f"the baseline's vectors lack {missing:,} of the {shared + missing:,} items that are ranked and have "
        f"{others:,} others: ranking among other items is another task; export both from the same --items"
    )


def _of_queries(
    one: QueryResults,
    other: QueryResults,
    domains: Sequence[str],
    resampling: Resampling,
    compared: Compared,
) -> Iterator[_Test]:
    place, place_of_other = paired_queries(one, other)
    asked = {"both": len(place), "main": len(one.row_Q), "baseline": len(other.row_Q)}
    compared.paired[one.task] = asked
    if len(place) < FEWEST:
        compared.uncompared[one.task] = (
            f"{asked['both']:,} of its {asked['main']:,} queries and of the baseline's {asked['baseline']:,} "
            f"are the same; at least {FEWEST} are needed"
        )
        return
    difference_QM = one.matrix()[place] - other.matrix()[place_of_other]
    for domain, inside_Q in _domains(one.domain_Q[place], domains):
        yield from _of_means(
            f"retrieval.{one.task}", list(one.values), domain, difference_QM[inside_Q], resampling
        )


def _of_labels(
    one: LabelResults,
    other: LabelResults,
    domains: Sequence[str],
    resampling: Resampling,
    compared: Compared,
) -> Iterator[_Test]:
    task = f"{one.task}.{one.labels.name}"
    both_J = one.judged_J() & other.judged_J()
    if both_J.sum() < FEWEST:
        compared.uncompared[task] = f"both judge {both_J.sum()} items; at least {FEWEST} are needed"
        return
    right_J = one.labels.class_J[both_J]
    said_JX = np.stack([one.predicted_J[both_J], other.predicted_J[both_J]], axis=1)
    for domain, inside_J in _domains(one.domain_J[both_J], domains):
        if inside_J.sum() < FEWEST:
            continue
        right, said = right_J[inside_J], said_JX[inside_J]
        replicates_BXM = resampled_scores(right, said, resampling.replicates, resampling.seed)
        shares_JM = label_differences(right, said)
        p_M = sign_flip_p(shares_JM, resampling.seed)
        yield from _tests(
            task,
            LABEL_METRICS,
            domain,
            shares_JM.mean(axis=0),
            replicates_BXM[:, 0] - replicates_BXM[:, 1],
            p_M,
            [len(right)] * 2,
            shares_JM,
        )


def label_differences(right_J: np.ndarray, said_JX: np.ndarray) -> np.ndarray:
    """What each item adds to the differences of accuracy and macro F1 between two entrants (J, 2).

    The means of the columns are the differences. Accuracy is a mean over items already; in macro F1 an item's
    part is the whole difference and, J times, the item's influence on it.
    """
    correct_JX = (said_JX == right_J[:, None]).astype(np.float64)
    (one, influence_J), (other, influence_of_other_J) = (macro_f1(right_J, said_J) for said_J in said_JX.T)
    f1_J = one - other + len(right_J) * (influence_J - influence_of_other_J)
    return np.stack([correct_JX[:, 0] - correct_JX[:, 1], f1_J], axis=1)


def _of_agreement(
    main: Results, baseline: Results, domains: Sequence[str], resampling: Resampling, compared: Compared
) -> Iterator[_Test]:
    if main.agreement is None or baseline.agreement is None:
        if main.agreement is not baseline.agreement:
            compared.uncompared[AGREEMENT] = whose(main.agreement is not None)
        return
    one, other = main.agreement.agreement, baseline.agreement.agreement
    place, place_of_other = common_rows(one.row_I[:, None], other.row_I[:, None])
    if len(place) < FEWEST:
        compared.uncompared[AGREEMENT] = f"both have {len(place)} items; at least {FEWEST} are needed"
        return
    difference_I = one.lead_I()[place] - other.lead_I()[place_of_other]
    for domain, inside_I in _domains(main.agreement.domain_I[place], domains):
        yield from _of_means(AGREEMENT, [IMAGE_TEXT], domain, difference_I[inside_I, None], resampling)


def _of_means(
    task: str, metrics: Sequence[str], domain: str | None, difference_QM: np.ndarray, resampling: Resampling
) -> Iterator[_Test]:
    count_M = np.isfinite(difference_QM).sum(axis=0)
    if len(difference_QM) < FEWEST:
        return
    mean_M = np.nan_to_num(difference_QM).sum(axis=0) / count_M.clip(min=1)
    replicates_BM = resampled_means(difference_QM, resampling.replicates, resampling.seed)
    p_M = sign_flip_p(difference_QM, resampling.seed)
    found = _tests(task, metrics, domain, mean_M, replicates_BM, p_M, count_M.tolist(), difference_QM)
    yield from (one for one in found if one.comparison["count"] >= FEWEST)


def _tests(
    task: str,
    metrics: Sequence[str],
    domain: str | None,
    difference_M: np.ndarray,
    replicates_BM: np.ndarray,
    p_M: np.ndarray,
    counts: Sequence[int],
    unit_QM: np.ndarray,
) -> Iterator[_Test]:
    columns = [column.tobytes() for column in unit_QM.T]
    for number, (low, high) in enumerate(zip(*interval(replicates_BM), strict=True)):
        comparison = {
            "task": task,
            "metric": metrics[number],
            "domain": domain,
            "difference": float(difference_M[number]),
            "ci_low": defined(low),
            "ci_high": defined(high),
            "p": float(p_M[number]),
            "p_holm": None,
            "count": int(counts[number]),
        }
        yield _Test(comparison, columns.index(columns[number]))


def _domains(domain: np.ndarray, names: Sequence[str]) -> Iterator[tuple[str | None, np.ndarray]]:
    """All units, then those of each domain by its name."""
    yield None, np.ones(len(domain), bool)
    for code, name in enumerate(names):
        yield name, domain == code
