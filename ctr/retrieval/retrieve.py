"""`moonrec retrieve`: candidates of a saved model for a table of users of any size.

The table is streamed and written block by block. Memory holds the events, the frozen vectors of the items in
them, and one block; the index is mapped.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr.allocator import keep_memory
from ctr.data.sources import InMemory, Source
from ctr.retrieval.candidate_lists import SOURCES, CandidateFinder, CandidateLists
from ctr.retrieval.index import ItemIndex, open_index
from ctr.retrieval.index.index_file import rebuild
from ctr.retrieval.index_folder import INDEX
from ctr.retrieval.list_table import ListTable
from ctr.retrieval.saving import SavedRetrieval, load_retrieval
from ctr.retrieval.user_requests import REQUESTS, UserRequests
from moonrec.atomic import atomic_file
from moonrec.embedding_fingerprint import is_intact
from moonrec.embedding_writer import VECTORS_FILE
from moonrec.errors import UserError
from moonrec.output_place import refuse_inside_inputs
from moonrec.progress import progress
from moonrec.table_spec import EVENTS, USERS
from moonrec.tables import check_same_clock, open_table


@dataclass(frozen=True)
class RetrieveConfig:
    """Options of `moonrec retrieve`, with the names of the flags.

    Attributes:
        model: the run folder of `moonrec train-retrieval`.
        users: one row per request: `user_id`, maybe `timestamp` (candidates as of then, from what was
            strictly earlier; without: from all events), and the model's context columns.
        events: what users did.
        out: the Parquet file to write.
        k: candidates per request.
        index: a folder that `moonrec index` wrote; None: the run's own.
        exact: search all vectors, whatever kind of index stands there.
        embeddings: vectors of the items in the events; None: where training had them.
        user_table: a table of context columns, where training had one.
        mask_history: whether what a user had is left out; None: as in training.
        new_share: the least share of a list's places for items that were never taken in training.
        allow_other_embeddings: take a set of which it cannot be told that the same encoder made it.
    """

    model: Path | str
    users: Path | str
    events: Path | str
    out: Path | str
    k: int = 500
    index: Path | str | None = None
    exact: bool = False
    embeddings: Path | str | None = None
    user_table: Path | str | None = None
    mask_history: bool | None = None
    new_share: float = 0.0
    allow_other_embeddings: bool = False


def retrieve(config: RetrieveConfig) -> dict[str, Any]:
    """Write `user_id`, (`timestamp`), `item_ids`, `scores` and `source` of every row of the users, in order.

    A list's `source` is `model` (the user was in training), `history` (he was not, but his events are on
    items that the model knows by id or vector) or `popularity` (the model knows nothing of him).

    Returns:
        `users` (rows), `source` (rows by source), `short_lists` (rows that got fewer than `k`), `k`, `items`
        (in the index), `index` (its kind), `seconds`, `users_per_second`.

    Raises:
        UserError: no usable model, index, table or embedding set, a value that may not stand where it stands,
            or an output that cannot be written.
    """
    started = time.perf_counter()
    _check(config)
    users, events = open_table(config.users, REQUESTS), open_table(config.events, EVENTS)
    user_table = None if config.user_table is None else open_table(config.user_table, USERS)
    check_same_clock([users, events])
    saved = load_retrieval(
        config.model, config.embeddings, allow_other_embeddings=config.allow_other_embeddings
    )
    if saved.embeddings is not None:
        refuse_inside_inputs(config.out, [("--embeddings", saved.embeddings.path)])
    index = served_index(saved, config.index, config.exact)
    keep_memory()
    counts = _Counts(config.k)
    with atomic_file(config.out) as temporary:
        finder = _finder(saved, index, users, events, user_table, config)
        if finder.k < config.k:
            what = f"the index holds {finder.k:,} items, so lists hold all that a user may get"
            print(f"warning: --k {config.k}: {what}", file=sys.stderr)
        table = ListTable(index.vectors.ids, "timestamp" in users.column_names)
        blocks = -(-users.count_rows() // finder.rows_at_once)
        with pq.ParquetWriter(temporary, table.schema) as writer:
            for rows, lists in progress(finder.blocks(), "retrieving", blocks):
                writer.write_table(table(rows, lists))
                counts.add(lists)
    seconds = time.perf_counter() - started
    return {
        **counts.results(),
        "k": finder.k,
        "items": len(index.vectors),
        "index": index.kind,
        "seconds": seconds,
        "users_per_second": counts.users / seconds,
        "out": str(config.out),
    }


def retrieve_in_memory(
    saved: SavedRetrieval,
    events: pa.Table,
    users: pa.Table,
    k: int,
    *,
    user_table: pa.Table | None = None,
    index: Path | str | None = None,
    exact: bool = False,
    mask_history: bool | None = None,
    new_share: float = 0.0,
) -> pa.Table:
    """The same for tables in memory; see `RetrieveConfig`.

    Raises:
        UserError: likewise.
    """
    config = RetrieveConfig(
        saved.run, "users", "events", "", k, mask_history=mask_history, new_share=new_share
    )
    _check_numbers(config)
    opened = (saved.run / INDEX if index is None else Path(index), exact)
    if opened not in saved.opened:
        saved.opened[opened] = served_index(saved, *opened)
    served = saved.opened[opened]
    finder = _finder(
        saved,
        served,
        InMemory(users, REQUESTS),
        InMemory(events, EVENTS),
        None if user_table is None else InMemory(user_table, USERS),
        config,
    )
    table = ListTable(served.vectors.ids, "timestamp" in users.column_names)
    found = [table(rows, lists) for rows, lists in finder.blocks()]
    return pa.concat_tables([table.schema.empty_table(), *found])


def served_index(saved: SavedRetrieval, folder: Path | str | None, exact: bool) -> ItemIndex:
    """Open an index for a model, and check that its vectors are those that were written.

    Args:
        saved: the model.
        folder: of the index; None: the run's own.
        exact: search all vectors, whatever kind of index stands there.

    Raises:
        UserError: no index there, a damaged one, or one of another model.
    """
    place = saved.run / INDEX if folder is None else Path(folder)
    if not place.is_dir():
        raise UserError(f"{place}: no such index; make one with `moonrec index --model {saved.run} -o DIR`")
    index = open_index(place, model_fingerprint=saved.fingerprint, exact=exact)
    if not is_intact(index.vectors):
        raise UserError(
            f"{place / VECTORS_FILE}: is damaged (its fingerprint is another); {rebuild(index.kind)}"
        )
    return index


def _check(config: RetrieveConfig) -> None:
    _check_numbers(config)
    out = Path(config.out)
    if out.is_dir():
        raise UserError(f"-o {out}: is a folder; expected the name of a Parquet file to write")
    names = ("model", "users", "events", "index", "embeddings", "user_table")
    refuse_inside_inputs(out, [(f"--{name.replace('_', '-')}", getattr(config, name)) for name in names])


def _check_numbers(config: RetrieveConfig) -> None:
    if config.k < 1:
        raise UserError(f"--k {config.k}: expected a whole number of at least 1")
    if not 0 <= config.new_share <= 1:
        raise UserError(f"--new-share {config.new_share}: expected a share from 0 to 1")


def _finder(
    saved: SavedRetrieval,
    index: ItemIndex,
    users: Source,
    events: Source,
    user_table: Source | None,
    config: RetrieveConfig,
) -> CandidateFinder:
    requests = UserRequests.of(saved, index.vectors.ids, events=events, users=users, user_table=user_table)
    as_trained = saved.settings.mask_history
    mask = as_trained if config.mask_history is None else config.mask_history
    return CandidateFinder(saved, index, requests, k=config.k, mask=mask, new_share=config.new_share)


class _Counts:
    """What is told of the lists that were made."""

    def __init__(self, k: int) -> None:
        self.users, self._k, self._short = 0, k, 0
        self._by_source = np.zeros(len(SOURCES), np.int64)

    def add(self, lists: CandidateLists) -> None:
        self.users += len(lists.source_Q)
        self._by_source += np.bincount(lists.source_Q, minlength=len(SOURCES))
        self._short += int(np.count_nonzero((lists.item_QK >= 0).sum(axis=1) < self._k))

    def results(self) -> dict[str, Any]:
        return {
            "users": self.users,
            "source": dict(zip(SOURCES, self._by_source.tolist(), strict=True)),
            "short_lists": self._short,
        }
