"""Digests beside an embedding set find the entries that are the same, and only those."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonrec.embedding_digests import DIGEST_BYTES, METADATA_KEY, Digests, DigestWriter
from moonrec.embedding_set import EmbeddingSet, EmbeddingSetWriter
from moonrec.errors import UserError


def digests(names: list[str]) -> pa.Array:
    found = [hashlib.sha256(name.encode()).digest()[:DIGEST_BYTES] for name in names]
    return pa.array(found, pa.binary(DIGEST_BYTES))


def written(path: Path, names: list[str], described: int | None = None) -> EmbeddingSet:
    with EmbeddingSetWriter(path, 4, {}) as writer:
        writer.write(names, np.eye(4, dtype=np.float32)[np.arange(len(names)) % 4])
        with DigestWriter(writer.folder) as file:
            for start in range(0, described if described is not None else len(names), 7):
                part = names[start : start + 7]
                file.write(digests(part), pa.array([name.endswith("1") for name in part]))
        writer.metadata[METADATA_KEY] = file.sha256
    return EmbeddingSet.open(path)


@settings(max_examples=40, deadline=None)
@given(
    known=st.lists(st.integers(0, 99), min_size=1, max_size=40, unique=True),
    asked=st.lists(st.integers(0, 99), max_size=40),
    start=st.integers(0, 5),
)
def test_rows_are_those_of_equal_digests(
    tmp_path_factory: pytest.TempPathFactory, known: list[int], asked: list[int], start: int
) -> None:
    names = [str(number) for number in known]
    found = Digests(written(tmp_path_factory.mktemp("sets") / "set", names))
    wanted = [str(number) for number in asked]
    rows = found.rows_of(digests(wanted).slice(start))
    assert rows.tolist() == [names.index(name) + 1 if name in names else 0 for name in wanted[start:]]
    hits = rows[rows > 0]
    assert found.broken(hits).tolist() == [names[row - 1].endswith("1") for row in hits.tolist()]


def test_digests_that_do_not_cover_the_set_are_refused(tmp_path: Path) -> None:
    names = [str(number) for number in range(20)]
    with pytest.raises(UserError, match="does not fit the vectors"):
        Digests(written(tmp_path / "set", names, described=7))
