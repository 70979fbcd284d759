"""What is evaluated against each baseline, query by query and item by item.

Both are measured on the same units, so what makes a query hard for both does not blur their difference.
Differences of means are tested by flipping signs (`moonrec.bootstrap.sign_flip_p`); macro F1 is no mean over
items, and is tested by the normal distribution with the bootstrap's standard error. Holm's correction is over
all comparisons with one baseline that are not of a single domain.

Shapes: Q queries that both answered, J items that both judged, M metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from encoders.evaluation.label_bootstrap import LABEL_METRICS, resampled_scores
from encoders.evaluation.results import LabelResults, QueryResults, Results
from encoders.evaluation.summary import IMAGE_TEXT, Resampling, defined
from moonrec.bootstrap import holm, interval, resampled_means, sign_flip_p

Comparison = dict[str, Any]
FEWEST = 2
"""A single unit says nothing about others like it."""


def compare(
    main: Results, baseline: Results, domains: Sequence[str], resampling: Resampling
) -> tuple[list[Comparison], dict[str, str]]:
    """Every number that both have, as differences main - baseline, and why the others are not compared."""
    found: list[Comparison] = []
    uncompared: dict[str, str] = {}
    for queries, other in _matched(main.queries, baseline.queries, lambda one: one.task, uncompared):
        if queries.queries_from == other.queries_from:
            found += _of_queries(queries, other, domains, resampling)
        else:
            uncompared[queries.task] = (
                f"its queries are of the {queries.queries_from}, the baseline's of the {other.queries_from}"
            )
    for labels, said in _matched(
        main.labels, baseline.labels, lambda one: f"{one.task}.{one.labels.name}", uncompared
    ):
        found += _of_labels(labels, said, domains, resampling)
    found += _of_agreement(main, baseline, domains, resampling)
    if (main.agreement is None) != (baseline.agreement is None):
        uncompared["agreement"] = _whose(main.agreement is not None)
    whole = [one for one in found if one["domain"] is None]
    for one, p_holm in zip(whole, holm([one["p"] for one in whole]), strict=True):
        one["p_holm"] = p_holm
    return [{"baseline": baseline.name} | one for one in found], uncompared


def _of_queries(
    one: QueryResults, other: QueryResults, domains: Sequence[str], resampling: Resampling
) -> Iterator[Comparison]:
    # A row shows the same query to both, but an entrant without pictures groups rows by their item.
    keys = [np.stack([each.row_Q, each.positives_Q], axis=1) for each in (one, other)]
    place, place_of_other = _common_rows(*keys)
    difference_QM = one.matrix()[place] - other.matrix()[place_of_other]
    for domain, inside_Q in _domains(one.domain_Q[place], domains):
        yield from _of_means(
            f"retrieval.{one.task}", list(one.values), domain, difference_QM[inside_Q], resampling
        )


def _of_labels(
    one: LabelResults, other: LabelResults, domains: Sequence[str], resampling: Resampling
) -> Iterator[Comparison]:
    task = f"{one.task}.{one.labels.name}"
    both_J = one.judged_J() & other.judged_J()
    right_J = one.labels.class_J[both_J]
    said_JX = np.stack([one.predicted_J[both_J], other.predicted_J[both_J]], axis=1)
    for domain, inside_J in _domains(one.domain_J[both_J], domains):
        if inside_J.sum() < FEWEST:
            continue
        right, said = right_J[inside_J], said_JX[inside_J]
        replicates_BXM = resampled_scores(right, said, resampling.replicates, resampling.seed)
        replicates_BM = replicates_BXM[:, 0] - replicates_BXM[:, 1]
        correct = (said == right[:, None]).astype(np.float64)
        accuracy = correct[:, 0] - correct[:, 1]
        f1 = _macro_f1(right, said[:, 0]) - _macro_f1(right, said[:, 1])
        p = [float(sign_flip_p(accuracy[:, None], resampling.seed)[0]), _normal_p(f1, replicates_BM[:, 1])]
        yield from _rows(
            task, LABEL_METRICS, domain, [accuracy.mean(), f1], replicates_BM, p, [len(right)] * 2
        )


def _of_agreement(
    main: Results, baseline: Results, domains: Sequence[str], resampling: Resampling
) -> Iterator[Comparison]:
    if main.agreement is None or baseline.agreement is None:
        return
    one, other = main.agreement.agreement, baseline.agreement.agreement
    place, place_of_other = _common_rows(one.row_I[:, None], other.row_I[:, None])
    difference_I = one.lead_I()[place] - other.lead_I()[place_of_other]
    for domain, inside_I in _domains(main.agreement.domain_I[place], domains):
        yield from _of_means("agreement", [IMAGE_TEXT], domain, difference_I[inside_I, None], resampling)


def _of_means(
    task: str, metrics: Sequence[str], domain: str | None, difference_QM: np.ndarray, resampling: Resampling
) -> Iterator[Comparison]:
    count_M = np.isfinite(difference_QM).sum(axis=0)
    if len(difference_QM) < FEWEST:
        return
    total_M = np.nan_to_num(difference_QM).sum(axis=0)
    replicates_BM = resampled_means(difference_QM, resampling.replicates, resampling.seed)
    p_M = sign_flip_p(difference_QM, resampling.seed)
    mean_M = total_M / count_M.clip(min=1)
    for row, count in zip(
        _rows(task, metrics, domain, mean_M, replicates_BM, p_M.tolist(), count_M.tolist()),
        count_M,
        strict=True,
    ):
        if count >= FEWEST:
            yield row


def _rows(
    task: str,
    metrics: Sequence[str],
    domain: str | None,
    differences: Sequence[float] | np.ndarray,
    replicates_BM: np.ndarray,
    p: Sequence[float],
    counts: Sequence[int],
) -> Iterator[Comparison]:
    for number, (low, high) in enumerate(zip(*interval(replicates_BM), strict=True)):
        yield {
            "task": task,
            "metric": metrics[number],
            "domain": domain,
            "difference": float(differences[number]),
            "ci_low": defined(low),
            "ci_high": defined(high),
            "p": p[number],
            "p_holm": None,
            "count": int(counts[number]),
        }


def _domains(domain: np.ndarray, names: Sequence[str]) -> Iterator[tuple[str | None, np.ndarray]]:
    """All units, then those of each domain by its name."""
    yield None, np.ones(len(domain), bool)
    for code, name in enumerate(names):
        yield name, domain == code


def _common_rows(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the rows that both arrays have; the rows of each are distinct."""
    both, number = np.unique(np.concatenate([one, other]), axis=0, return_inverse=True)
    place, place_of_other = np.full(len(both), -1), np.full(len(both), -1)
    place[number[: len(one)]] = np.arange(len(one))
    place_of_other[number[len(one) :]] = np.arange(len(other))
    shared = (place >= 0) & (place_of_other >= 0)
    return place[shared], place_of_other[shared]


def _macro_f1(right_J: np.ndarray, said_J: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(right_J, said_J, labels=np.unique(right_J), average="macro", zero_division=0))


def _normal_p(difference: float, replicates_B: np.ndarray) -> float:
    spread = float(replicates_B.std())
    return math.erfc(abs(difference) / spread / math.sqrt(2)) if spread > 0 else 1.0


def _matched(
    main: Sequence[Any], baseline: Sequence[Any], name_of: Any, uncompared: dict[str, str]
) -> Iterator[tuple[Any, Any]]:
    """The parts that both did, and a reason for each that one of them did alone."""
    ours: Mapping[str, Any] = {name_of(one): one for one in main}
    theirs: Mapping[str, Any] = {name_of(one): one for one in baseline}
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if name in ours and name in theirs:
            yield ours[name], theirs[name]
        else:
            uncompared[name] = _whose(name in ours)


def _whose(is_main: bool) -> str:
    return "the baseline does not do it" if is_main else "only the baseline does it"
