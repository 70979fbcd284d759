"""A folder of item vectors and their index, replaced as a whole: readers find the old one or the new one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctr.retrieval.index.index_file import FAISS_FILE, INDEX_FILE
from moonrec.atomic import atomic_folder
from moonrec.embedding_writer import METADATA_FILE, VECTORS_FILE
from moonrec.errors import UserError

# The name of a run's own.
INDEX = "index"
_OURS = {VECTORS_FILE, METADATA_FILE, INDEX_FILE, FAISS_FILE}


@contextmanager
def index_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder, which takes the place of `path` when the block ends without an error.

    Raises:
        UserError: something else than an index stands there, the disk is full, or the place cannot be
            written.
    """
    if path.exists():
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else {path.name}
        if names and not ({INDEX_FILE} <= names <= _OURS):
            raise UserError(f"-o {path}: exists and is no index of items; choose another output")
    with atomic_folder(path) as temporary:
        yield temporary
