"""Choosing, fitting and calibrating the relevance model on training pairs alone.

Folds are of whole queries: all pairs of a query are on one side. The form of the model and its penalty are
those with the least log loss on pairs of queries that were left out of the fit. The logits of those pairs
then calibrate the model that is fitted to all (Platt's sigmoid: a scale and a shift, which cannot change the
order of pairs); isotonic regression would make ties, and wants more queries than many logs have.

Source of the calibration: Platt, "Probabilistic outputs for support vector machines", 1999.

Shapes: P pairs, F features, W inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from encoders.relevance.design import Design, Form
from encoders.relevance.features import COSINE
from encoders.relevance.model import RelevanceModel, Setting
from moonrec.errors import UserError
from moonrec.metrics import auc, log_loss

COSINE_ALONE = Form("cosine", only=(COSINE,))
FORMS = (
    COSINE_ALONE,
    Form("linear"),
    Form("linear by modality", by_modality=True),
    Form("curved", curved=True),
    Form("curved by modality", curved=True, by_modality=True),
)
FEWEST_QUERIES = 20
_PENALTIES = (0.01, 0.1, 1.0, 10.0)
_FOLDS = 5
_WEAK = 100.0


@dataclass(frozen=True)
class TrainingPairs:
    """Pairs to learn from: features (P, F), modality and number of the query, label, each (P,)."""

    feature_PF: np.ndarray
    modality_P: np.ndarray
    query_P: np.ndarray
    label_P: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> TrainingPairs:
        parts = (self.feature_PF, self.modality_P, self.query_P, self.label_P)
        return TrainingPairs(*(part[rows] for part in parts))


@dataclass(frozen=True)
class Fitted:
    """A model, the form and penalty that were chosen for it, and how all that were tried did."""

    model: RelevanceModel
    chosen: dict[str, Any]
    tried: list[dict[str, Any]]


def fit_relevance(pairs: TrainingPairs, setting: Setting, seed: int, forms: Sequence[Form] = FORMS) -> Fitted:
    """Choose among `forms` by held-out queries, fit to all pairs, calibrate.

    Args:
        pairs: of at least `FEWEST_QUERIES` queries, of both labels.
        setting: what the features are of.
        seed: of the folds.
        forms: what may be chosen.

    Raises:
        UserError: too few queries, or one label alone in a fold.
    """
    fold_P = _folds(pairs, seed)
    # Where every query shows the same, there is nothing to split by.
    several = len(np.unique(pairs.modality_P)) > 1
    held_out: dict[tuple[Form, float], np.ndarray] = {}
    for form in (one for one in forms if several or not one.by_modality):
        for penalty, logit_P in zip(_PENALTIES, _out_of_fold(pairs, setting, form, fold_P), strict=True):
            held_out[form, penalty] = logit_P
    loss = {key: log_loss(pairs.label_P, _probability(logit_P)) for key, logit_P in held_out.items()}
    form, penalty = min(loss, key=loss.__getitem__)
    tried = [
        {"form": form.name, "c": penalty, "logloss": loss[form, penalty], "auc": auc(pairs.label_P, logit_P)}
        for (form, penalty), logit_P in held_out.items()
    ]
    scale, shift = _platt(held_out[form, penalty], pairs.label_P)
    design = Design.fitted(form, setting.features, pairs.feature_PF, pairs.modality_P)
    weight_W, intercept = _logistic(design(pairs.feature_PF, pairs.modality_P), pairs.label_P, penalty)
    model = RelevanceModel(setting, design, scale * weight_W, scale * intercept + shift)
    chosen = {"form": form.name, "c": penalty, "calibration": {"scale": scale, "shift": shift}}
    return Fitted(model, chosen, tried)


def _folds(pairs: TrainingPairs, seed: int) -> np.ndarray:
    """The fold (P,) of each pair's query."""
    queries, number_P = np.unique(pairs.query_P, return_inverse=True)
    if len(queries) < FEWEST_QUERIES:
        raise UserError(
            f"--searches: {len(queries)} distinct queries with an item of the catalogue; choosing and "
            f"calibrating a model takes at least {FEWEST_QUERIES}"
        )
    fold_Q = np.random.default_rng(seed).permutation(len(queries)) % _FOLDS
    fold_P = fold_Q[number_P]
    for fold in range(_FOLDS):
        if len(np.unique(pairs.label_P[fold_P != fold])) < 2:
            raise UserError(
                "--searches: too few negatives to choose a model by; add `negative_item_id`, or say "
                "--negatives 4"
            )
    return fold_P


def _out_of_fold(
    pairs: TrainingPairs, setting: Setting, form: Form, fold_P: np.ndarray
) -> Iterator[np.ndarray]:
    """Per penalty the logits (P,) of a model that has not seen the pair's query."""
    inputs = []
    for fold in range(_FOLDS):
        seen, left = pairs[fold_P != fold], pairs[fold_P == fold]
        design = Design.fitted(form, setting.features, seen.feature_PF, seen.modality_P)
        inputs.append((design(seen.feature_PF, seen.modality_P), seen.label_P,
                       design(left.feature_PF, left.modality_P)))  # fmt: skip
    for penalty in _PENALTIES:
        logit_P = np.zeros(len(fold_P))
        for fold, (seen_PW, label_P, left_PW) in enumerate(inputs):
            weight_W, intercept = _logistic(seen_PW, label_P, penalty)
            logit_P[fold_P == fold] = left_PW @ weight_W + intercept
        yield logit_P


def _platt(logit_P: np.ndarray, label_P: np.ndarray) -> tuple[float, float]:
    """Scale and shift with which the held-out logits are most likely."""
    weight_W, intercept = _logistic(logit_P[:, None], label_P, _WEAK)
    if weight_W[0] > 0:
        return float(weight_W[0]), intercept
    # Nothing was learnt: to turn the order round would be to believe noise. All pairs are equally likely.
    share = label_P.mean()
    return 0.0, float(np.log(share) - np.log1p(-share))


def _logistic(input_PW: np.ndarray, label_P: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights (W,) and intercept of a logistic regression with scikit-learn's C."""
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=penalty, max_iter=2000).fit(input_PW, label_P)
    return found.coef_[0], float(found.intercept_[0])


def _probability(logit_P: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -logit_P))
