"""What the relevance model is worth on test pairs, beside the bare cosine, with intervals.

Numbers are told for all pairs, per query modality, and per kind of negative (its pairs against all
positives): negatives that were drawn evenly are easier than those that were shown, and an AUC means nothing
without saying which it is of.

Shapes: P pairs, S scores to compare (the model, the cosine).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from encoders.relevance.labelled_pairs import KINDS, SHOWN, TAKEN, LabelledPairs
from encoders.relevance.query_vectors import MODALITIES
from encoders.relevance.ranked_pairs import point, resampled
from encoders.relevance.within_queries import query_auc
from moonrec.bootstrap import interval
from moonrec.calibration import calibration
from moonrec.metrics import log_loss

COSINE = "cosine"
METRICS = ("auc", "average_precision", "query_auc")
_Numbers = dict[str, Any]


@dataclass(frozen=True)
class ScoredPairs:
    """Test pairs with their scores.

    Attributes:
        pairs: queries, items and kinds.
        modality_P: numbers of the queries' modalities.
        relevance_P: the model's probabilities.
        cosine_P: the bare cosine; 0 for an item that shows nothing.
        cosine_relevance_P: probabilities of a model of the cosine alone, for log loss and calibration.
        is_new_P: whether the query did not stand in training.
    """

    pairs: LabelledPairs
    modality_P: np.ndarray
    relevance_P: np.ndarray
    cosine_P: np.ndarray
    cosine_relevance_P: np.ndarray
    is_new_P: np.ndarray


@dataclass(frozen=True)
class Resampling:
    """Of the intervals: how many replicates, and the seed."""

    replicates: int
    seed: int


def measure(scored: ScoredPairs, resampling: Resampling) -> dict[str, Any]:
    """`test`, `baseline.cosine`, `by_modality[]`, `by_negative[]`, `new_queries`, `differences[]`."""
    every = np.ones(len(scored.pairs), bool)
    whole = _part("all", scored, every, resampling)
    label_P = scored.pairs.label_P
    found: dict[str, Any] = {
        "test": whole.numbers | _as_probabilities(label_P, scored.relevance_P),
        "baseline": {COSINE: whole.cosine | _as_probabilities(label_P, scored.cosine_relevance_P)},
    }
    differences = list(whole.differences)
    for key, name, parts in (
        ("by_modality", "modality", _modalities(scored)),
        ("by_negative", "negative", _negatives(scored)),
    ):
        found[key] = []
        for label, inside_P in parts:
            part = _part(f"{name}: {label}", scored, inside_P, resampling)
            found[key].append({name: label} | part.numbers | {COSINE: part.cosine})
            differences += part.differences
    new = whole if scored.is_new_P.all() else None
    if new is None and scored.is_new_P.any():
        new = _part("new queries", scored, scored.is_new_P, resampling)
    found["new_queries"] = None if new is None else new.numbers | {COSINE: new.cosine}
    return found | {"differences": differences}


def _as_probabilities(label_P: np.ndarray, probability_P: np.ndarray) -> _Numbers:
    reliability = calibration(label_P, probability_P)
    return {
        "logloss": log_loss(label_P, probability_P),
        "ece": reliability["error"],
        "bins": reliability["bins"],
    }


@dataclass(frozen=True)
class _Part:
    """Numbers of the model and of the cosine on some pairs, and their paired differences."""

    numbers: _Numbers
    cosine: _Numbers
    differences: list[_Numbers]


def _part(group: str, scored: ScoredPairs, inside_P: np.ndarray, resampling: Resampling) -> _Part:
    label_P, query_P = scored.pairs.label_P[inside_P], scored.pairs.query_P[inside_P]
    scores_SP = [one_P[inside_P] for one_P in (scored.relevance_P, scored.cosine_P)]
    replicates, seed = resampling.replicates, resampling.seed
    within_S, drawn_within = query_auc(label_P, scores_SP, query_P, replicates, seed)
    own, cosine = (
        np.append(point(label_P, score_P), within)
        for score_P, within in zip(scores_SP, within_S, strict=True)
    )
    drawn = resampled(label_P, scores_SP, query_P, replicates, seed)
    drawn = np.concatenate([drawn, drawn_within[:, :, None]], axis=2)
    counts = {
        "pairs": len(label_P),
        "positives": int(label_P.sum()),
        "queries": len(np.unique(query_P)),
    }
    low, high = interval(drawn[:, 0] - drawn[:, 1])
    differences = [
        {
            "baseline": COSINE,
            "metric": metric,
            "group": group,
            "difference": _number(own[place] - cosine[place]),
            "ci_low": _number(low[place]),
            "ci_high": _number(high[place]),
        }
        for place, metric in enumerate(METRICS)
    ]
    return _Part(_told(own, drawn[:, 0]) | counts, _told(cosine, drawn[:, 1]), differences)


def _told(values: np.ndarray, drawn_BM: np.ndarray) -> _Numbers:
    low, high = interval(drawn_BM)
    numbers: _Numbers = {metric: _number(value) for metric, value in zip(METRICS, values, strict=True)}
    ci = {metric: [_number(low[one]), _number(high[one])] for one, metric in enumerate(METRICS)}
    return numbers | {"ci": ci}


def _modalities(scored: ScoredPairs) -> Iterator[tuple[str, np.ndarray]]:
    for number, name in enumerate(MODALITIES):
        inside_P = scored.modality_P == number
        if inside_P.any():
            yield name, inside_P


def _negatives(scored: ScoredPairs) -> Iterator[tuple[str, np.ndarray]]:
    kind_P = scored.pairs.kind_P
    for kind in range(SHOWN, len(KINDS)):
        if (kind_P == kind).any():
            yield KINDS[kind], (kind_P == kind) | (kind_P == TAKEN)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
