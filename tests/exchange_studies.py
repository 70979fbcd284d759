"""Simulated exchange-rate studies whose slope is known.

Legend: V versions, S seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moonrec.exchange.observations import ALL, Metric, Outcome, Versions

Covariance = Callable[[np.ndarray], np.ndarray]
"""True metrics of the versions to a sampling covariance."""


def noise(common: float = 0.0, own: float = 0.0, along: float = 0.0) -> Covariance:
    """Luck of a test set: what all versions share, what is each one's own, what grows with the metric."""

    def covariance(x_V: np.ndarray) -> np.ndarray:
        centred_V = x_V - x_V.mean()
        shared_VV = common**2 + along**2 * np.outer(centred_V, centred_V)
        return shared_VV + own**2 * np.eye(len(x_V))

    return covariance


_COMMON, _NONE = noise(common=0.004), noise()


@dataclass(frozen=True)
class Study:
    """How studies are drawn.

    Attributes:
        slope: the truth.
        scatter: of versions about the line.
        seed_noise: of one training of the judge.
        users: luck of the test users.
        queries: luck of the test queries.
        versions: how many.
        seeds: how many.
    """

    slope: float = 0.1
    scatter: float = 0.001
    seed_noise: float = 0.001
    users: Covariance = _COMMON
    queries: Covariance = _NONE
    versions: int = 8
    seeds: int = 3

    def draw(self, generator: np.random.Generator) -> tuple[Metric, Outcome]:
        """Metric and outcome of one study; their noise is known."""
        x_V = generator.normal(0.5, 0.05, self.versions)
        users_VV, queries_VV = self.users(x_V), self.queries(x_V)
        y_V = 0.6 + self.slope * x_V + generator.normal(0, self.scatter, self.versions)
        y_V = y_V + _normal(generator, users_VV)
        level_S = generator.normal(0, 0.002, self.seeds)
        noise_VS = generator.normal(0, self.seed_noise, (self.versions, self.seeds))
        return (
            Metric("recall", ALL, x_V + _normal(generator, queries_VV), queries_VV),
            Outcome("auc", ALL, y_V[:, None] + level_S + noise_VS, users_VV),
        )


def _normal(generator: np.random.Generator, covariance_VV: np.ndarray) -> np.ndarray:
    value, vector_VV = np.linalg.eigh(covariance_VV)
    return vector_VV @ (np.sqrt(np.maximum(value, 0)) * generator.standard_normal(len(value)))


def versions(count: int) -> Versions:
    """As many, each of its own family."""
    names = [f"v{number}" for number in range(count)]
    return Versions(names, names)


@dataclass(frozen=True)
class Trainings:
    """How studies over checkpoints are drawn: metric and scatter walk at random within a training.

    Attributes:
        slope: the truth.
        trainings: how many.
        checkpoints: of a training, fewest and most.
        apart: how far trainings start from each other, in steps of the walk.
        seed_noise: of one training of the judge.
        users: luck of the test users.
        queries: luck of the test queries.
    """

    slope: float = 0.1
    trainings: int = 4
    checkpoints: tuple[int, int] = (3, 7)
    apart: float = 1.0
    seed_noise: float = 0.0003
    users: Covariance = _COMMON
    queries: Covariance = _NONE

    def draw(self, generator: np.random.Generator) -> tuple[Metric, Outcome, Versions]:
        """Metric and outcome of one study, and which checkpoints are of which training."""
        low, high = self.checkpoints
        sizes = generator.integers(low, high + 1, self.trainings)
        x_V, scatter_V = (np.concatenate([self._walk(generator, size) for size in sizes]) for _ in range(2))
        x_V, count = 0.5 + 0.02 * x_V, int(sizes.sum())
        users_VV, queries_VV = self.users(x_V), self.queries(x_V)
        y_V = 0.6 + self.slope * x_V + 0.001 * scatter_V + _normal(generator, users_VV)
        noise_VS = generator.normal(0, self.seed_noise, (count, 3))
        families = np.repeat([f"training {number}" for number in range(self.trainings)], sizes).tolist()
        return (
            Metric("recall", ALL, x_V + _normal(generator, queries_VV), queries_VV),
            Outcome("auc", ALL, y_V[:, None] + generator.normal(0, 0.002, 3) + noise_VS, users_VV),
            Versions([f"v{number}" for number in range(count)], families),
        )

    def _walk(self, generator: np.random.Generator, length: int) -> np.ndarray:
        return generator.normal(0, self.apart) + np.cumsum(generator.standard_normal(length))
