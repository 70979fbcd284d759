"""An encoder and an embedding set that it made: queries to vectors, vectors to the nearest entries.

Shapes: Q queries, D width of the set's vectors, N entries of the set, K results.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from encoders.encoder import ProductTable
from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.products import EVERYTHING
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError
from moonrec.tables import Table

# Ours: the exact search keeps a sorted list per query, made for some hundreds; this many still take seconds.
MOST_RESULTS = 10_000


@dataclass(frozen=True)
class Searcher:
    """Open one with `Searcher.open`, and ask as often as you like.

    Attributes:
        worker: encodes queries, at the width of the set.
        embeddings: what is searched.
    """

    worker: WorkingEncoder
    embeddings: EmbeddingSet

    @classmethod
    def open(
        cls, encoder: str, embeddings: str, items: Table | None, device: torch.device, cache: Path | None
    ) -> Searcher:
        """Open both; an untrained encoder is fitted to `items`, which are the set's then.

        A set that was exported at a Matryoshka prefix (`--dim`) is asked with queries cut alike.

        Raises:
            UserError: nothing that can be opened, an empty set, one that this encoder did not make, or an
                untrained encoder without a catalogue.
        """
        found = EmbeddingSet.open(embeddings)
        made_by = found.metadata.get("encoder_fingerprint")
        if not len(found):
            raise UserError(f"--embeddings {embeddings}: holds no vectors; export the catalogue again")
        if made_by is None:
            raise UserError(
                f"--embeddings {embeddings}: was not exported by an encoder, so none puts queries into its "
                "space; run `moonrec export` and search what that writes"
            )
        worker = WorkingEncoder.start(encoder, items, device, cache)
        if made_by != worker.encoder.fingerprint():
            raise UserError(
                f"--embeddings {embeddings}: was made by another encoder than {encoder} (fingerprints "
                "differ); name the encoder that made it (for an untrained one, --items as it was then), or "
                "export the catalogue with this one"
            )
        worker.encoder.eval()
        return cls(worker.at(found.dimension), found)

    def vectors(self, shard: ProductTable) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors (Q, D) float32 of queries with all that they show, and which (Q,) show nothing.

        Raises:
            UserError: the encoder gives vectors that are not finite.
        """
        return self.worker.vectors(shard, EVERYTHING)

    def nearest(
        self, vectors_QD: np.ndarray, k: int, excluded_Q: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Exact: cosines float32 (Q, K) and entries int64 (Q, K) of the set, best first; K = min(k, N).

        Args:
            vectors_QD: of `vectors`.
            k: at least 1.
            excluded_Q: one entry per query that is left out of its results; -1 for none. A query that lost
                one of its K entries ends in a cosine of -inf and the entry -1.

        Raises:
            UserError: more than `MOST_RESULTS` results, or a vector of the set that is not finite.
        """
        from moonrec.nearest import top_k

        count = min(k, len(self.embeddings))
        if count > MOST_RESULTS:
            raise UserError(f"--k {k}: at most {MOST_RESULTS:,} results are searched for; ask for fewer")
        try:
            return top_k(vectors_QD, self.embeddings, count, excluded_Q)
        except ValueError as error:
            # The queries are checked and of the set's width, so it is about the set.
            raise UserError(f"{self.embeddings.path}: {error}; export the catalogue again") from error
