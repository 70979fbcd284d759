"""Open an index that was saved with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctr.retrieval.index.faiss_index import FaissIndex
from ctr.retrieval.index.faiss_library import import_faiss
from ctr.retrieval.index.index_file import (
    IndexRecord,
    check_belongs,
    check_faiss_file,
    read_record,
    rebuild,
)
from ctr.retrieval.index.item_index import ExactIndex, ItemIndex
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError


def open_index(folder: str | Path, *, model_fingerprint: str | None = None, exact: bool = False) -> ItemIndex:
    """Open the index in a folder that `build_index` wrote; vectors and graph or codes stay on disk, mapped.

    Args:
        folder: of the embedding set and the index.
        model_fingerprint: of the model that will make the user vectors; None checks no model.
        exact: search all vectors, whatever kind of index stands there.

    Raises:
        UserError: the folder holds no index, it was built from other vectors or for another model, it is
            damaged, or faiss is needed and not installed.
    """
    folder = Path(folder)
    vectors = EmbeddingSet.open(folder)
    record = read_record(folder)
    check_belongs(folder, record, vectors, model_fingerprint)
    if exact or record.effort is None:
        return ExactIndex(vectors)
    faiss = import_faiss(record.kind)
    index = _mapped(faiss, check_faiss_file(folder, record), record, vectors)
    return FaissIndex(faiss, record.kind, index, vectors, record.effort)


def _mapped(faiss: Any, path: Path, record: IndexRecord, vectors: EmbeddingSet) -> Any:
    """The index in the file, memory-mapped.

    Of faiss's flags for that, `IO_FLAG_MMAP` leaves HNSW in memory, `IO_FLAG_MMAP_IFC` maps both kinds.
    """
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise UserError(
            f"{path}: faiss {faiss.__version__} cannot read it ({error}); {rebuild(record.kind)}"
        ) from error
    expected = {"hnsw": "IndexHNSWSQ", "ivfpq": "IndexIVFPQ"}[record.kind]
    if (type(index).__name__, index.ntotal, index.d) != (expected, len(vectors), vectors.dimension):
        raise UserError(
            f"{path}: holds {type(index).__name__} of {index.ntotal:,} x {index.d}, expected {expected} of "
            f"{len(vectors):,} x {vectors.dimension}; {rebuild(record.kind)}"
        )
    return index
