"""From what an entrant did unit by unit to the numbers of `metrics.json`: means, intervals, domains.

Intervals are the middle 95 % of means over queries, or over items, drawn with replacement: what another
sample of the same kind would give, for the same catalogue and the same encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from encoders.evaluation.label_bootstrap import LABEL_METRICS, resampled_scores
from encoders.evaluation.results import AgreementResults, LabelResults, QueryResults, Results
from encoders.evaluation.zero_shot import scores
from moonrec.bootstrap import interval, resampled_means

IMAGE_TEXT = "image_text"
FEWEST = 2
"""A single query or item says nothing about others like it: it has no interval."""


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: replicates and the seed of their draws."""

    replicates: int
    seed: int


def summary(results: Results, domains: Sequence[str], resampling: Resampling) -> dict[str, Any]:
    """`retrieval`, `classification`, `attributes`, `agreement`, and the same per domain under `domains`."""
    found = _parts(results, None, resampling)
    by_domain = {name: _parts(results, code, resampling) for code, name in enumerate(domains)}
    return found | {"domains": {name: parts for name, parts in by_domain.items() if any(parts.values())}}


def defined(value: float) -> float | None:
    """A number as JSON holds it: None where there is none."""
    return float(value) if math.isfinite(value) else None


def _parts(results: Results, domain: int | None, resampling: Resampling) -> dict[str, Any]:
    """The parts of one domain, by its number, or of all (None); what a domain lacks is left out."""
    retrieval = {one.task: _of_queries(one, domain, resampling) for one in results.queries}
    found: dict[str, Any] = {"retrieval": {name: values for name, values in retrieval.items() if values}}
    for one in results.labels:
        if values := _of_labels(one, domain, resampling):
            found.setdefault(one.task, {})[one.labels.name] = values
    if results.agreement is not None and (values := _of_agreement(results.agreement, domain, resampling)):
        found["agreement"] = values
    return found


def _of_queries(one: QueryResults, domain: int | None, resampling: Resampling) -> dict[str, Any]:
    inside_Q = _inside(one.domain_Q, domain)
    if not inside_Q.any():
        return {}
    values_QM = one.matrix()[inside_Q]
    found: dict[str, Any] = dict(zip(one.values, _means(values_QM), strict=True))
    found |= one.counts if domain is None else {"queries": int(inside_Q.sum())}
    replicates_BM = resampled_means(values_QM, resampling.replicates, resampling.seed)
    return found | {"ci": _intervals(list(one.values), replicates_BM, np.isfinite(values_QM).sum(axis=0))}


def _of_labels(one: LabelResults, domain: int | None, resampling: Resampling) -> dict[str, Any]:
    inside_J = _inside(one.domain_J, domain)
    found = scores(one.labels, one.predicted_J, inside_J)
    if found is None:
        return {}
    judged_J = inside_J & one.judged_J()
    replicates_BXM = resampled_scores(
        one.labels.class_J[judged_J],
        one.predicted_J[judged_J, None],
        resampling.replicates,
        resampling.seed,
    )
    return found | {"ci": _intervals(LABEL_METRICS, replicates_BXM[:, 0], [judged_J.sum()] * 2)}


def _of_agreement(one: AgreementResults, domain: int | None, resampling: Resampling) -> dict[str, Any]:
    inside_I = _inside(one.domain_I, domain)
    if not inside_I.any():
        return {}
    lead_I = one.agreement.lead_I()[inside_I]
    replicates_BM = resampled_means(lead_I[:, None], resampling.replicates, resampling.seed)
    intervals = _intervals([IMAGE_TEXT], replicates_BM, [len(lead_I)])
    return {IMAGE_TEXT: float(lead_I.mean()), "items": len(lead_I), "ci": intervals}


def _inside(domain: np.ndarray, wanted: int | None) -> np.ndarray:
    return np.ones(len(domain), bool) if wanted is None else domain == wanted


def _means(values_QM: np.ndarray) -> list[float | None]:
    """The mean of each column's numbers; None where it has none."""
    known_QM = np.isfinite(values_QM)
    count_M = known_QM.sum(axis=0)
    mean_M = np.where(known_QM, values_QM, 0.0).sum(axis=0) / count_M.clip(min=1)
    return [float(mean) if count else None for mean, count in zip(mean_M, count_M, strict=True)]


def _intervals(
    names: Sequence[str], replicates_BM: np.ndarray, units_M: Sequence[int] | np.ndarray
) -> dict[str, list[float | None]]:
    bounds_M2 = np.stack(interval(replicates_BM), axis=1)
    bounds_M2[np.asarray(units_M) < FEWEST] = np.nan
    return {name: [defined(low), defined(high)] for name, (low, high) in zip(names, bounds_M2, strict=True)}
