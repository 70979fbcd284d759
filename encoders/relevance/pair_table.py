"""`pairs.parquet`: every test pair with its scores, for statistics of one's own.

Shapes: P pairs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from encoders.relevance.labelled_pairs import KINDS
from encoders.relevance.measure import ScoredPairs
from encoders.relevance.query_vectors import MODALITIES
from moonrec.atomic import atomic_file

FILE = "pairs.parquet"


def write_pairs(folder: Path, scored: ScoredPairs, row_Q: np.ndarray, ids: pa.Array) -> None:
    """Write the pairs into a run folder.

    Args:
        folder: the run's.
        scored: the test pairs.
        row_Q: a row of the test table that shows each query.
        ids: of the catalogue.

    Raises:
        UserError: the disk is full.
    """
    pairs = scored.pairs
    table = pa.table(
        {
            "query_row": row_Q[pairs.query_P],
            "item_id": ids.take(pa.array(pairs.item_P)),
            "kind": pa.array(KINDS, pa.string()).take(pa.array(pairs.kind_P)),
            "modality": pa.array(MODALITIES, pa.string()).take(pa.array(scored.modality_P)),
            "relevance": scored.relevance_P,
            "cosine": scored.cosine_P,
        }
    )
    with atomic_file(folder / FILE) as temporary:
        pq.write_table(table, temporary)
