"""What an exchange rate is estimated from: one intermediate metric and one outcome over encoder versions.

Legend: V versions, S seeds of the judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

ALL = "all"
"""The domain that holds everything."""
_LOWER_IS_BETTER = ("contrastive_loss",)


def lower_is_better(metric: str) -> bool:
    """Whether a gain of the metric is a fall of its value."""
    return metric.rsplit(".", 1)[-1] in _LOWER_IS_BETTER


@dataclass(frozen=True)
class Metric:
    """An intermediate metric in one domain over the versions.

    Attributes:
        name: as in `metrics.json` of `moonrec evaluate`.
        domain: `all` or the name of a category.
        value_V: the metric; NaN where a version lacks it.
        covariance_VV: sampling covariance of `value_V` over the test queries, items or users that all
            versions share; None where it is not known.
        shared_VV: per outcome name the covariance of `value_V` (rows) with the outcome's values (columns),
            for a metric that is measured on the judge's own test users (the top-3 cosine's AUC): a sample
            of users that flatters a version flatters it in both. Outcomes that are not named share none.

    Raises:
        ValueError: a covariance does not have the shape of the values.
    """

    name: str
    domain: str
    value_V: np.ndarray
    covariance_VV: np.ndarray | None
    shared_VV: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for covariance_VV in (self.covariance_VV, *self.shared_VV.values()):
            _check_covariance(len(self.value_V), covariance_VV, self.name)


@dataclass(frozen=True)
class Outcome:
    """What the judge, a CTR model on a version's frozen vectors, reached in one domain.

    Attributes:
        name: `auc` or `gauc`.
        domain: `all` or the name of a category.
        value_VS: versions × seeds of the judge; NaN where undefined.
        covariance_VV: sampling covariance over test users of the versions' means over seeds; None where it
            is not known.

    Raises:
        ValueError: the covariance does not have the shape of the values, or these are no matrix.
    """

    name: str
    domain: str
    value_VS: np.ndarray
    covariance_VV: np.ndarray | None

    def __post_init__(self) -> None:
        if self.value_VS.ndim != 2:
            raise ValueError(f"{self.name}: values of shape {self.value_VS.shape}, expected versions × seeds")
        _check_covariance(len(self.value_VS), self.covariance_VV, self.name)


@dataclass(frozen=True)
class Versions:
    """The versions in the order of every array.

    Attributes:
        names: each once.
        families: checkpoints of one training, which are no independent versions, are one family.

    Raises:
        ValueError: not one family per name, or a name twice.
    """

    names: Sequence[str]
    families: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.families) or len(set(self.names)) != len(self.names):
            raise ValueError("versions need distinct names and one family each")


def _check_covariance(count: int, covariance_VV: np.ndarray | None, name: str) -> None:
    if covariance_VV is not None and covariance_VV.shape != (count, count):
        raise ValueError(f"{name}: covariance of shape {covariance_VV.shape} for {count} versions")
