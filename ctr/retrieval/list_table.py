"""Candidate lists as a table: `user_id`, maybe `timestamp`, `item_ids`, `scores`, `source`.

Legend: Q requests, K places of a list.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ctr.retrieval.candidate_lists import SOURCES, CandidateLists

_TIME = pa.field("timestamp", pa.timestamp("us", tz="UTC"))


class ListTable:
    """Makes the tables.

    Args:
        ids: the ids of the index.
        timed: whether requests tell their time.

    Attributes:
        schema: that of the tables.
    """

    def __init__(self, ids: pa.ChunkedArray, timed: bool) -> None:
        # One piece: gathering out of many is slower, and 64-bit offsets have no limit of 2 GiB.
        self._ids = pa.chunked_array([ids.cast(pa.large_string()).combine_chunks()])
        self.schema = pa.schema(
            [
                pa.field("user_id", pa.string()),
                *([_TIME] if timed else []),
                pa.field("item_ids", pa.list_(pa.string())),
                pa.field("scores", pa.list_(pa.float32())),
                pa.field("source", pa.string()),
            ]
        )

    def __call__(self, rows: pa.Table, lists: CandidateLists) -> pa.Table:
        """The table of some requests; `rows` are they as read, with times in microseconds."""
        there_QK = lists.item_QK >= 0
        offsets = pa.array(np.append(0, there_QK.sum(axis=1).cumsum()).astype(np.int32))
        ids = self._ids.take(pa.array(lists.item_QK[there_QK])).combine_chunks().cast(pa.string())
        scores = pa.array(lists.score_QK[there_QK])
        sources = pa.array(SOURCES).take(pa.array(lists.source_Q))
        columns = [
            rows["user_id"].cast(pa.string()),
            *([rows["timestamp"].cast(_TIME.type)] if _TIME.name in self.schema.names else []),
            pa.ListArray.from_arrays(offsets, ids),
            pa.ListArray.from_arrays(offsets, scores),
            sources,
        ]
        return pa.table(columns, schema=self.schema)
