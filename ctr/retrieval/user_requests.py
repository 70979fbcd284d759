"""Users of a table as the user tower reads them, block by block, with what they had done before.

The rows are streamed; the events and the frozen vectors of the items in them are held in memory.

Legend: R rows of a block, C items of the events by their code, E events, N items of the index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.data.coded_rows import IdSpaces, RowCoder
from ctr.data.codes import Codes, blocks
from ctr.data.event_log import collect_events, event_columns
from ctr.data.features import IMPRESSIONS_TABLE, USERS_TABLE, Feature, check_features
from ctr.data.impressions import Impressions, RowIndexer, RowSpaces
from ctr.data.ragged import Ragged
from ctr.data.side_features import SideFeatures, read_side_features
from ctr.data.sources import Source
from ctr.retrieval.catalogue import ItemInputs, read_frozen
from ctr.retrieval.requests import had_before
from ctr.retrieval.saving import SavedRetrieval
from moonrec.errors import UserError
from moonrec.ids import rows_of
from moonrec.table_spec import Column, Kind, TableSpec

REQUESTS = TableSpec(
    "users",
    (
        Column("user_id", Kind.ID, required=True, nullable=False),
        Column("timestamp", Kind.TIMESTAMP, nullable=False),
    ),
)
_TIME = "timestamp"
_AFTER_ALL = np.iinfo(np.int64).max


@dataclass(frozen=True)
class UserRequests:
    """Made by `of`.

    Attributes:
        users: the table of requests.
        coder, indexer: what a block goes through.
        side: context columns of the users table; None without.
        items: what the user tower reads of the behaviours' items.
        frozen: their vectors; None for a model without.
        position_C: where each item stands in the index, -1 = nowhere.
        telling_E1: (E + 1,) of how many events, up to each, the model knows the item's id or vector.
    """

    users: Source
    coder: RowCoder
    indexer: RowIndexer
    side: SideFeatures | None
    items: ItemInputs
    frozen: FrozenEmbeddings | None
    position_C: NDArray[np.int64]
    telling_E1: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        saved: SavedRetrieval,
        index_ids: pa.ChunkedArray,
        *,
        events: Source,
        users: Source,
        user_table: Source | None = None,
    ) -> UserRequests:
        """Read what all blocks share.

        Args:
            saved: the model.
            index_ids: the items that can be found (N).
            events: what users did.
            users: one row per request: `user_id`, maybe `timestamp`, the model's context columns.
            user_table: context columns that stand in the users table; None: they stand in `users`.

        Raises:
            UserError: a context column is missing, or a value may not stand where it stands.
        """
        vocabulary = saved.vocabulary.ids
        features = _features(vocabulary.features, users, user_table)
        categories = {name: Codes(values) for name, values in vocabulary.categories.items()}
        spaces = IdSpaces(users=Codes(vocabulary.users), categories=categories)
        store = collect_events(events.batches(event_columns(events.schema.names, False)), spaces, False)
        side = None
        if user_table is not None and any(one.table == USERS_TABLE for one in features):
            for block in blocks(users.batches(["user_id"]), spaces.largest):
                spaces.users.add(pc.unique(block["user_id"]))
            side = read_side_features(user_table, USERS_TABLE, features, spaces, grow=False)
        frozen, frozen_C = read_frozen(saved.embeddings, spaces.items.ids)
        rows = RowSpaces.of(spaces, vocabulary, frozen_C)
        no_categories = Ragged(np.zeros(0, np.int64), np.zeros(len(spaces.items) + 1, np.int64))
        items = ItemInputs(rows.item_row, frozen_C, no_categories)
        return cls(
            users=users,
            coder=RowCoder(spaces, features, queries=False, grow=False, labels=False),
            indexer=RowIndexer(store, rows, vocabulary, saved.settings.history),
            side=side,
            items=items,
            frozen=frozen,
            position_C=rows_of(spaces.items.ids, index_ids),
            telling_E1=np.append(0, np.cumsum(items.known()[store.item_E])),
        )

    def blocks(self, rows: int) -> Iterator[tuple[pa.Table, Impressions]]:
        """The requests in order, as read and as the tower sees them, at most so many rows at once."""
        there = self.users.schema.names
        added = {"item_id"} if _TIME in there else {"item_id", _TIME}
        columns = [name for name in self.coder.columns(there) if name not in added]
        for block in blocks(self.users.batches(columns), self.coder.spaces.largest):
            coded = self.coder(_completed(block))
            indexed = self.indexer(coded if self.side is None else self.side.join(coded))
            for first in range(0, len(indexed), rows):
                part_R = np.arange(first, min(first + rows, len(indexed)))
                yield block.slice(first, len(part_R)), indexed.at(part_R)

    def masked(self, rows: Impressions, mask: bool) -> Ragged:
        """What of the index each user had before, sorted, each once; nothing without `mask`."""
        return had_before(rows.group_R, rows.time_R, self.indexer.store, self.position_C, mask)

    def told_by_history(self, rows: Impressions) -> NDArray[np.bool_]:
        """Whether the model knows an item, by id or vector, in each row's history (R)."""
        return np.asarray(self.telling_E1[rows.end_R] > self.telling_E1[rows.start_R])


def _features(features: Sequence[Feature], users: Source, user_table: Source | None) -> tuple[Feature, ...]:
    """The features with the tables that they are read from here, which are checked."""
    if user_table is None:
        for one in features:
            if one.table == USERS_TABLE and one.name not in users.schema.names:
                raise UserError(
                    f"{users.path}: column {one.name!r} is missing, which the model reads of its users; add "
                    "it, or give the table of users with --user-table"
                )
        features = [replace(one, table=IMPRESSIONS_TABLE) for one in features]
    tables = {IMPRESSIONS_TABLE: users} | ({} if user_table is None else {USERS_TABLE: user_table})
    check_features(features, tables)
    return tuple(features)


def _completed(block: pa.Table) -> pa.Table:
    """With the columns of impressions: no item, and a time after all events where the table tells none."""
    block = block.append_column("item_id", pa.nulls(len(block), pa.string()))
    if _TIME not in block.column_names:
        block = block.append_column(_TIME, pa.array(np.full(len(block), _AFTER_ALL)))
    return block
