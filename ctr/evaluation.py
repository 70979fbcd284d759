"""From scores of the whole test file to the numbers of `metrics.json`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.impressions import Impressions
from moonrec.metrics import FREQUENCY_GROUPS, auc, auc_by_group, frequency_groups, gauc, log_loss


def probabilities(logit_R: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits to probabilities, (R,)."""
    return 1.0 / (1.0 + np.exp(-logit_R.astype(np.float64)))


def test_metrics(impressions: Impressions, logit_R: NDArray[np.float32]) -> dict[str, Any]:
    """AUC, impression-weighted GAUC, log loss, rows and users of a test file; None for what is undefined."""
    label_R = impressions.label_R
    return {
        **ranking_quality(impressions, logit_R),
        "logloss": log_loss(label_R, probabilities(logit_R)),
        "rows": len(label_R),
        "users": int(impressions.group_R.max()) + 1,
    }


def ranking_quality(impressions: Impressions, score_R: NDArray[np.floating]) -> dict[str, float | None]:
    """AUC and GAUC of any scores."""
    return {
        "auc": auc(impressions.label_R, score_R),
        "gauc": gauc(impressions.group_R, impressions.label_R, score_R),
    }


def auc_by_frequency(
    train: Impressions, test: Impressions, score_R: NDArray[np.floating]
) -> list[dict[str, Any]]:
    """Rows and AUC of test rows whose item is new, rare or common in the training impressions."""
    count_C = np.bincount(train.item_R, minlength=len(train.item_row))
    groups = frequency_groups(count_C[test.item_R], count_C[count_C > 0])
    return auc_by_group(groups, test.label_R, score_R, names=FREQUENCY_GROUPS)
