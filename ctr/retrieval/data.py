"""What a retrieval run learns from and is measured on.

Every process reads the log by itself and holds it in memory: about 40 bytes an event, 4 · D per item with a
vector.

Legend: R rows, C items by their code.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.data.coded_rows import CodedRows, IdSpaces
from ctr.data.codes import Codes
from ctr.data.features import IMPRESSIONS_TABLE, USERS_TABLE, check_features, declare
from ctr.data.history import EventStore
from ctr.data.impressions import Impressions, RowIndexer, RowSpaces
from ctr.data.ragged import Ragged
from ctr.data.side_features import read_side_features
from ctr.data.vocabulary import Vocabulary
from ctr.data.vocabulary_learning import VocabularyLearner
from ctr.retrieval.catalogue import (
    Catalogue,
    ItemInputs,
    category_paths,
    category_texts,
    kept_values,
    read_frozen,
)
from ctr.retrieval.config import RetrievalConfig
from ctr.retrieval.log import Log, read_log, with_sides
from ctr.retrieval.requests import Requests, make_requests
from ctr.retrieval.split import Split, split_by_table, split_by_time
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError
from moonrec.table_spec import USERS
from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, Table, check_same_clock, open_table

_MOST_VALIDATED = 2_000


@dataclass(frozen=True)
class RetrievalVocabulary:
    """Everything with a trained row of its own.

    Attributes:
        ids: users, items and context columns.
        categories: category paths; the i-th has row i + 1.
    """

    ids: Vocabulary
    categories: pa.Array


@dataclass(frozen=True)
class RetrievalData:
    """The inputs of a run.

    Attributes:
        train: rows to learn from; `item_R` are item codes.
        validation, test: requests.
        vocabulary: what has a trained row.
        items: what the item tower reads.
        catalogue: the candidates.
        frozen: item vectors; None for a model without.
        fingerprint: of the embedding set; None likewise.
        encoder: what made the set, see `encoder_of`; None also where the set does not tell.
        taken_C: how often each item is a training target.
        store: the events.
        learnt_E: which events, in the order of `store`, are before the test (and its validation) period.
        moment: where the test period begins; None where a table says it per user.
        repeats: share of the test rows that were repeats.
        mask_history: whether what a user had is none of his candidates.
    """

    train: Impressions
    validation: Requests
    test: Requests
    vocabulary: RetrievalVocabulary
    items: ItemInputs
    catalogue: Catalogue
    frozen: FrozenEmbeddings | None
    fingerprint: str | None
    encoder: str | None
    taken_C: NDArray[np.int64]
    store: EventStore
    learnt_E: NDArray[np.bool_]
    moment: int | None
    repeats: float
    mask_history: bool


@dataclass(frozen=True)
class Inputs:
    """Open tables and the embedding set."""

    tables: dict[str, Table]
    embeddings: EmbeddingSet | None


def open_inputs(config: RetrievalConfig) -> Inputs:
    """Open everything that `config` names; reads footers, headers and the times.

    Raises:
        UserError: an input is missing or damaged, or does not go with the others.
    """
    paths = {
        "events": (config.events, EVENTS),
        "items": (config.items, ITEMS),
        "users": (config.users, USERS),
    }
    tables = {name: open_table(path, spec) for name, (path, spec) in paths.items() if path is not None}
    if config.test is not None:
        found = open_table(config.test, EVENTS)
        tables["test"] = open_table(config.test, IMPRESSIONS) if "label" in found.column_names else found
    check_same_clock(list(tables.values()))
    embeddings = None if config.embeddings is None else EmbeddingSet.open(config.embeddings)
    if embeddings is not None and not len(embeddings):
        raise UserError(f"{config.embeddings}: holds no vector; export the catalogue's")
    return Inputs(tables, embeddings)


def load_data(config: RetrievalConfig, inputs: Inputs) -> RetrievalData:
    """Read the log, split it, number everything.

    Raises:
        UserError: a value may not stand where it stands, or nothing is left to learn from or to measure.
    """
    tables = inputs.tables
    homes = {IMPRESSIONS_TABLE: tables["events"]} | (
        {USERS_TABLE: tables["users"]} if "users" in tables else {}
    )
    features = declare(config.categorical, config.numeric, homes)
    if "test" in tables:
        check_features(features, {IMPRESSIONS_TABLE: tables["test"]})
    spaces = IdSpaces(categories={one.name: Codes() for one in features if not one.numeric})
    listed = _listed_items(inputs)
    if listed is not None:
        spaces.items.add(listed)
    logs: dict[str, Log] = {
        name: read_log(tables[name], spaces, features, _kinds(config, name, tables[name]))
        for name in ("events", "test")
        if name in tables
    }
    side = read_side_features(tables["users"], USERS_TABLE, features, spaces, True) if config.users else None
    logs = {name: with_sides(log, [side] if side is not None else []) for name, log in logs.items()}
    split = _split(config, logs, len(spaces.users))

    rows = logs["events"].rows
    store = EventStore.build(rows.user_R, rows.item_R, rows.time_R, len(spaces.users))
    learner = VocabularyLearner(spaces, store, config.history, features)
    learner.add(split.train)
    ids = learner.vocabulary(config.min_count)
    frozen, frozen_C = read_frozen(inputs.embeddings, spaces.items.ids)
    if inputs.embeddings is not None and not frozen_C.any():
        print(f"warning: {config.embeddings}: knows no item of the catalogue or the log", file=sys.stderr)
    spaces_rows = RowSpaces.of(spaces, ids, frozen_C)
    categories, category_rows = _categories(tables.get("items"), spaces, spaces_rows.item_row)
    items = ItemInputs(spaces_rows.item_row, spaces_rows.frozen_row, category_rows)
    # Without a list: in the order of the vocabulary, that of ids.
    codes = np.argsort(items.trained_C)[-len(ids.items) :] if listed is None else np.arange(len(listed))
    catalogue = Catalogue.of(spaces.items.ids, codes, items.known())
    if not len(catalogue):
        raise UserError(
            f"{config.items or config.events}: no item can be retrieved: none is seen often enough in "
            "training, has a vector or a known category; lower --min-count, or give their --embeddings"
        )
    indexer = RowIndexer(store, spaces_rows, ids, config.history)
    position_C, mask = catalogue.position_C, config.mask_history
    return RetrievalData(
        train=indexer(split.train),
        validation=make_requests(split.validation, indexer, position_C, mask, _MOST_VALIDATED),
        test=make_requests(split.test, indexer, position_C, mask, config.requests),
        vocabulary=RetrievalVocabulary(ids, categories),
        items=items,
        catalogue=catalogue,
        frozen=frozen,
        fingerprint=None if inputs.embeddings is None else inputs.embeddings.fingerprint,
        encoder=None if inputs.embeddings is None else encoder_of(inputs.embeddings),
        taken_C=np.bincount(split.train.item_R, minlength=len(spaces.items)),
        store=store,
        learnt_E=_learnt(store, split.train),
        moment=split.moment,
        repeats=split.repeats,
        mask_history=mask,
    )


def encoder_of(embeddings: EmbeddingSet) -> str | None:
    """Fingerprint of the encoder and modality that it was given: sets that share both are one space.

    None for a set that does not tell, such as an imported one.
    """
    made_by = embeddings.metadata.get("encoder_fingerprint")
    return f"{made_by} {embeddings.metadata.get('modality')}" if isinstance(made_by, str) else None


def _kinds(config: RetrievalConfig, name: str, table: Table) -> tuple[str, ...]:
    """The kinds that are wanted of a table; a test table of impressions or without kinds has none."""
    there = table.column_names
    return config.targets if name == "events" or (table.spec is EVENTS and "event" in there) else ()


def _split(config: RetrievalConfig, logs: dict[str, Log], users: int) -> Split:
    novel, share, name = config.mask_history, config.validation_share, str(config.events)
    if "test" in logs:
        return split_by_table(logs["events"], logs["test"], novel, share, users, name)
    return split_by_time(logs["events"], novel, config.test_share, share, name)


def _listed_items(inputs: Inputs) -> pa.ChunkedArray | None:
    """The ids of the catalogue; None where no table and no set tells them."""
    if "items" in inputs.tables:
        return inputs.tables["items"].read(["item_id"])["item_id"]
    return inputs.embeddings.ids if inputs.embeddings is not None else None


def _categories(
    items: Table | None, spaces: IdSpaces, trained_C: NDArray[np.int64]
) -> tuple[pa.Array, Ragged]:
    """The category paths of trained items, and each item's rows in their table."""
    count = len(spaces.items)
    if items is None or "category" not in items.column_names:
        return pa.array([], pa.large_string()), Ragged(np.zeros(0, np.int64), np.zeros(count + 1, np.int64))
    codes = Codes()
    paths = category_paths(category_texts(items, spaces.items), codes, grow=True)
    of_item_N = np.repeat(np.arange(count), np.diff(paths.offsets_R1))
    learnt = np.unique(paths.values[trained_C[of_item_N] > 0])
    row = np.zeros(len(codes), np.int64)
    row[learnt] = np.arange(len(learnt)) + 1
    row_N = row[paths.values]
    names = codes.ids.take(pa.array(learnt)).combine_chunks()
    return names, kept_values(Ragged(row_N, paths.offsets_R1), row_N > 0)


def _learnt(store: EventStore, train: CodedRows) -> NDArray[np.bool_]:
    """The events that are no later than their user's last training row: what a baseline may count."""
    users = len(store.user_offsets) - 1
    last_U = np.full(users, np.iinfo(np.int64).min)
    np.maximum.at(last_U, train.user_R, train.time_R)
    return store.time_E <= np.repeat(last_U, np.diff(store.user_offsets))
