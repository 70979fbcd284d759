"""`index.json`: what stands in a folder of item vectors beside them, and which vectors and model it is for.

The folder holds an embedding set (the items' vectors), `index.json` and, if faiss is used, `index.faiss`.
faiss trusts the file that it reads, so nothing is read whose sha256 is not the one written with it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonrec.atomic import write_json
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError

KINDS = ("exact", "hnsw", "ivfpq")
INDEX_FILE, FAISS_FILE = "index.json", "index.faiss"
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Effort:
    """How hard an index of faiss searches; it was chosen for `k` results and grows with what is asked for.

    Attributes:
        k: results that it was chosen for.
        depth: candidates that HNSW keeps in view (efSearch), or lists that IVF-PQ visits (nprobe).
        factor: candidates per result whose exact score is computed (IVF-PQ; 1 for HNSW, whose are exact).
    """

    k: int
    depth: int
    factor: int = 1


@dataclass(frozen=True)
class IndexRecord:
    """The content of `index.json`.

    Attributes:
        kind: one of `KINDS`.
        model_fingerprint: of the model whose item tower made the vectors.
        vectors_fingerprint: of the embedding set.
        sha256: of `index.faiss`; None for exact search.
        effort: of a search; None for exact search.
        measured: what `build_index` returned.
    """

    kind: str
    model_fingerprint: str
    vectors_fingerprint: str
    sha256: str | None
    effort: Effort | None
    measured: dict[str, Any]


def rebuild(kind: str = "KIND") -> str:
    """What to do about an index that cannot be used."""
    return f"make another: `moonrec index --model RUN --kind {kind} -o INDEX`, for --index"


def write_record(folder: Path, record: IndexRecord) -> None:
    """Write `index.json`."""
    write_json(folder / INDEX_FILE, asdict(record))


def read_record(folder: Path) -> IndexRecord:
    """Read `index.json`.

    Raises:
        UserError: it is missing or not what `build_index` writes.
    """
    path = folder / INDEX_FILE
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("too large")
        values = json.loads(path.read_text(encoding="utf-8"))
        effort = values["effort"]
        record = IndexRecord(**{**values, "effort": None if effort is None else Effort(**effort)})
        _check(record)
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing, so {folder} holds no index; {rebuild()}") from error
    except (ValueError, TypeError, KeyError, RecursionError, OSError) as error:
        raise UserError(f"{path}: is damaged ({error!r}); {rebuild()}") from error
    return record


def check_belongs(
    folder: Path, record: IndexRecord, vectors: EmbeddingSet, model_fingerprint: str | None
) -> None:
    """Check that the index was made of these vectors, by this model (None: any).

    Raises:
        UserError: it was not.
    """
    path = folder / INDEX_FILE
    if record.vectors_fingerprint != vectors.fingerprint:
        raise UserError(
            f"{path}: was built from other vectors (fingerprint {record.vectors_fingerprint[:12]}) than "
            f"those beside it ({vectors.fingerprint[:12]}); {rebuild(record.kind)}"
        )
    if model_fingerprint is not None and record.model_fingerprint != model_fingerprint:
        raise UserError(
            f"{path}: belongs to another model (fingerprint {record.model_fingerprint[:12]}) than the one "
            f"that asks ({model_fingerprint[:12]}); {rebuild(record.kind)}"
        )


def check_faiss_file(folder: Path, record: IndexRecord) -> Path:
    """The path of `index.faiss`, byte for byte the file that was written.

    Raises:
        UserError: it is missing or is another one.
    """
    path = folder / FAISS_FILE
    try:
        found = sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {rebuild(record.kind)}") from error
    if found != record.sha256:
        raise UserError(
            f"{path}: is not the file that {INDEX_FILE} was written with (sha256 {found[:12]}, expected "
            f"{str(record.sha256)[:12]}), so it is damaged or another's; {rebuild(record.kind)}"
        )
    return path


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(record: IndexRecord) -> None:
    if record.kind not in KINDS:
        raise ValueError(f"kind is {record.kind!r}, expected one of {', '.join(KINDS)}")
    if (record.effort is None) != (record.kind == "exact"):
        raise ValueError(f"effort is {record.effort!r} for kind {record.kind}")
    if not isinstance(record.model_fingerprint, str) or not isinstance(record.vectors_fingerprint, str):
        raise TypeError("fingerprints must be strings")
    if record.effort is not None:
        numbers = (record.effort.k, record.effort.depth, record.effort.factor)
        if any(type(number) is not int or number < 1 for number in numbers):
            raise ValueError(f"effort is {numbers}, expected positive whole numbers")
