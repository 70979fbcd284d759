"""faiss, which is optional: imported where it is used, and missing in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moonrec.errors import UserError


def import_faiss(kind: str) -> Any:
    """The library (https://github.com/facebookresearch/faiss), for an index of this kind.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"--index {kind}: needs faiss, which is not installed ({error}); "
            "`pip install moonrec[index]`, or take --index exact"
        ) from error
    return faiss


@contextmanager
def faiss_threads(faiss: Any, threads: int) -> Iterator[None]:
    """Let faiss use so many threads while the block runs."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
