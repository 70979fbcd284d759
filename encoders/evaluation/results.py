"""What one entrant of an evaluation reached, unit by unit: small enough to be kept for all of them.

Shapes: Q queries of a task, J items that a label set judges, I items that have both a picture and words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from encoders.evaluation.agreement import Agreement
from encoders.evaluation.label_sets import LabelSet
from encoders.evaluation.ranked import Ranked
from encoders.evaluation.zero_shot import NOTHING
from moonrec.domains import NONE, Domains
from moonrec.ids import rows_of

MAIN = "main"
"""The name of the entrant that an evaluation is about; baselines have names of their own."""


@dataclass(frozen=True)
class QueryResults:
    """One retrieval task.

    Attributes:
        task: its name.
        queries_from: `searches` or `catalogue`.
        row_Q: the row of that table that shows the query.
        domain_Q: number of the domain of the query's first positive in catalogue order; -1 for none.
        positives_Q: how many positives there are.
        first_rank_Q: rank of the first one, 0 where none could be found.
        values: metrics by name, (Q) each.
        counts: of the task as a whole.
    """

    task: str
    queries_from: str
    row_Q: np.ndarray
    domain_Q: np.ndarray
    positives_Q: np.ndarray
    first_rank_Q: np.ndarray
    values: Mapping[str, np.ndarray]
    counts: Mapping[str, Any]

    @classmethod
    def of(cls, ranked: Ranked, domains: Domains | None) -> QueryResults:
        """What is worth keeping of a task that was measured."""
        queries = ranked.queries
        counts = {
            "queries": len(ranked.vectors_QE),
            "catalogue": len(ranked.catalogue),
            "positives": int(queries.positives_Q.sum()),
            "positives_in_catalogue": len(queries.item_P),
            "queries_from": ranked.queries_from,
        }
        return cls(
            ranked.task.name,
            ranked.queries_from,
            queries.first_row_Q,
            _first_domain(ranked, domains),
            queries.positives_Q,
            ranked.first_rank_Q(),
            ranked.values,
            counts,
        )

    def matrix(self) -> np.ndarray:
        """The values as columns, in their order (Q, metrics)."""
        return np.stack(list(self.values.values()), axis=1)


@dataclass(frozen=True)
class LabelResults:
    """One set of labels: what each of its items (J) was taken for; -1 for items that show nothing."""

    task: str
    labels: LabelSet
    predicted_J: np.ndarray
    domain_J: np.ndarray

    def judged_J(self) -> np.ndarray:
        """Which items showed anything."""
        return self.predicted_J != NOTHING


@dataclass(frozen=True)
class AgreementResults:
    """The agreement of pictures and words, with the domain of each item (I)."""

    agreement: Agreement
    domain_I: np.ndarray


@dataclass
class Results:
    """All that an entrant did.

    Attributes:
        name: `main`, or the baseline's.
        dim: width of its vectors.
        queries: its retrieval tasks.
        labels: its label sets.
        agreement: None where it was not measured.
        left_out: why tasks, or parts of them, were not done.
        broken_images: pictures that could not be used.
    """

    name: str
    dim: int
    queries: list[QueryResults] = field(default_factory=list)
    labels: list[LabelResults] = field(default_factory=list)
    agreement: AgreementResults | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    broken_images: Mapping[str, Any] = field(default_factory=dict)


def _first_domain(ranked: Ranked, domains: Domains | None) -> np.ndarray:
    """Per query the domain of the positive that stands first in the items table; -1 for none (Q)."""
    queries, count = ranked.queries, len(ranked.vectors_QE)
    if domains is None:
        return np.full(count, NONE, np.int32)
    known, item = np.unique(queries.item_P, return_inverse=True)
    row_P = rows_of(ranked.catalogue.ids.take(pa.array(known)), domains.ids)[item]
    beyond = len(domains.ids)
    first_Q = np.full(count, beyond)
    np.minimum.at(first_Q, queries.query_P, np.where(row_P < 0, beyond, row_P))
    return np.append(domains.code_N, np.int32(NONE))[first_Q]
