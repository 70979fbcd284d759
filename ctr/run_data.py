"""What a ranking run reads: tables, checked and turned into arrays, and the frozen vectors of their items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ctr.frozen_embeddings import FrozenEmbeddings
from ctr.impressions import Impressions, Vocabulary, index_impressions, learn_vocabulary, make_catalogue
from moonrec.embedding_set import EmbeddingSet
from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, check_same_clock, open_table

_EVENT_COLUMNS = ("user_id", "item_id", "timestamp")
_IMPRESSION_COLUMNS = (*_EVENT_COLUMNS, "label")


@dataclass(frozen=True)
class RunData:
    """The inputs of a run, ready for training.

    Attributes:
        train, test: impressions.
        vocabulary: the ids that get a trained row.
        frozen: vectors of all items that occur; None for a model of ids only.
        test_table: the test impressions as they were read.
        catalogue_coverage: share of the `items` table that has a vector; None without table or vectors.
        embeddings_fingerprint: of the embedding set; None without one.
        inputs: a fingerprint per input.
    """

    train: Impressions
    test: Impressions
    vocabulary: Vocabulary
    frozen: FrozenEmbeddings | None
    test_table: pa.Table
    catalogue_coverage: float | None
    embeddings_fingerprint: str | None
    inputs: dict[str, str]


def load_run_data(
    *,
    impressions: Path | str,
    test: Path | str,
    events: Path | str,
    items: Path | str | None,
    embeddings: Path | str | None,
    history: int,
) -> RunData:
    """Read and index everything; see `ctr.train.TrainConfig` for the arguments.

    Raises:
        UserError: a table or the embedding set is missing, damaged or holds a value that may not stand there.
    """
    tables = {
        "impressions": open_table(impressions, IMPRESSIONS),
        "test": open_table(test, IMPRESSIONS),
        "events": open_table(events, EVENTS),
    }
    check_same_clock(list(tables.values()))
    inputs = {name: table.fingerprint() for name, table in tables.items()}
    train_table = tables["impressions"].read(_IMPRESSION_COLUMNS)
    test_table = tables["test"].read(_IMPRESSION_COLUMNS)
    catalogue = make_catalogue(tables["events"].read(_EVENT_COLUMNS), [train_table, test_table])

    embedding_set = EmbeddingSet.open(embeddings) if embeddings is not None else None
    frozen, frozen_row = None, None
    if embedding_set is not None:
        inputs["embeddings"] = embedding_set.fingerprint
        frozen, frozen_row = FrozenEmbeddings.from_set(embedding_set, catalogue.items)
    catalogue_coverage = None
    if items is not None:
        item_table = open_table(items, ITEMS)
        inputs["items"] = item_table.fingerprint()
        if embedding_set is not None:
            catalogue_coverage = float(
                np.mean(embedding_set.rows(item_table.read(["item_id"])["item_id"]) > 0)
            )

    vocabulary = learn_vocabulary(catalogue, train_table, history)
    return RunData(
        train=index_impressions(train_table, catalogue, vocabulary, frozen_row, history),
        test=index_impressions(test_table, catalogue, vocabulary, frozen_row, history),
        vocabulary=vocabulary,
        frozen=frozen,
        test_table=test_table,
        catalogue_coverage=catalogue_coverage,
        embeddings_fingerprint=embedding_set.fingerprint if embedding_set is not None else None,
        inputs=inputs,
    )
