from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonrec import embedding_writer
from moonrec.embedding_set import EmbeddingSet, EmbeddingSetWriter
from moonrec.errors import UserError

ROOT = Path(__file__).parent.parent


def unit(rows: int, width: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def names(rows: int) -> list[str]:
    return [f"{number:05d}" for number in range(rows)]  # leading zeros: ids are no numbers


def write(path: Path, ids: list[str], vectors: np.ndarray, **metadata: object) -> EmbeddingSet:
    with EmbeddingSetWriter(path, vectors.shape[1], metadata) as writer:
        writer.write(ids, vectors)
    return EmbeddingSet.open(path)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches from few rows."""
    monkeypatch.setattr(embedding_writer, "BATCH_ROWS", 50)


def test_ids_and_vectors_come_back(tmp_path: Path, small_batches: None) -> None:
    vectors = unit(120, 8)
    embeddings = write(tmp_path / "set", names(120), vectors, modality="image")
    assert len(embeddings) == 120
    assert embeddings.ids.to_pylist() == names(120)
    assert [len(block) for block in embeddings.blocks()] == [50, 50, 20]
    np.testing.assert_array_equal(embeddings.matrix(), vectors.astype(np.float16))
    assert embeddings.metadata["modality"] == "image"
    assert embeddings.metadata["rows"] == 120
    assert embeddings.metadata["dtype"] == "float16"


def test_an_unknown_id_is_row_zero_and_the_zero_vector(tmp_path: Path) -> None:
    vectors = unit(3, 4)
    embeddings = write(tmp_path / "set", ["007", "7", "ü"], vectors)
    rows = embeddings.rows(["7", "07", "ü", "007", ""])
    assert rows.tolist() == [2, 0, 3, 1, 0]
    found = embeddings.vectors(rows)
    np.testing.assert_array_equal(found[[0, 2, 3]], vectors.astype(np.float16)[[1, 2, 0]])
    assert not found[[1, 4]].any()
    assert embeddings.coverage(rows) == 0.6


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 5), max_size=3))
def test_gathering_rows_equals_plain_indexing(
    hypothesis_set: EmbeddingSet, seed: int, shape: list[int]
) -> None:
    rows = np.random.default_rng(seed).integers(0, len(hypothesis_set) + 1, shape)
    table = np.vstack([np.zeros((1, hypothesis_set.dimension), np.float16), hypothesis_set.matrix()])
    np.testing.assert_array_equal(hypothesis_set.vectors(rows), table[rows])


@pytest.mark.parametrize("row", [-1, 4])
def test_rows_that_do_not_exist_are_refused(tmp_path: Path, row: int) -> None:
    embeddings = write(tmp_path / "set", names(3), unit(3, 4))
    with pytest.raises(ValueError, match=r"expected \[0, 3\]"):
        embeddings.vectors(np.array([0, row]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 130), min_size=1, max_size=6))
def test_the_fingerprint_knows_contents_only(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    vectors, ids = unit(200, 4), pa.array(names(200))
    folder = tmp_path_factory.mktemp("sets")
    whole = write(folder / "whole", names(200), vectors)
    with EmbeddingSetWriter(folder / "cut", 4, {"created_by": "someone"}) as writer:
        bounds = [0, *sorted({min(cut, 200) for cut in cuts}), 200]
        for start, stop in pairwise(bounds):
            writer.write(ids[start:stop], vectors[start:stop])
    assert EmbeddingSet.open(folder / "cut").fingerprint == whole.fingerprint
    changed = vectors.copy()
    changed[7] = -changed[7]
    assert write(folder / "changed", names(200), changed).fingerprint != whole.fingerprint
    renamed = [*names(199), "another"]
    assert write(folder / "renamed", renamed, vectors).fingerprint != whole.fingerprint


@pytest.mark.parametrize(
    ("row", "value", "message"),
    [
        (60, math.nan, "entry 60: item '00060' has nan at position 1"),
        (3, math.inf, "entry 3: item '00003' has inf"),
        (0, 1e30, "entry 0: item '00000' has a vector of length 1e\\+30, expected 1"),
        (99, 1.0, "entry 99: item '00099' has a vector of length 1.4.*--normalize"),
    ],
)
def test_bad_vectors_are_refused_with_their_id(
    tmp_path: Path, small_batches: None, row: int, value: float, message: str
) -> None:
    vectors = np.tile(np.array([[1.0, 0.0]]), (100, 1))
    vectors[row, 1] = value
    with pytest.raises(UserError, match=message):
        write(tmp_path / "set", names(100), vectors)
    assert list(tmp_path.iterdir()) == []


def test_zero_vectors_wrong_widths_and_bad_ids_are_refused(tmp_path: Path, small_batches: None) -> None:
    vectors = unit(100, 3)
    zero = vectors.copy()
    zero[70] = 0
    with pytest.raises(UserError, match="item '00070' has a zero vector"):
        write(tmp_path / "set", names(100), zero)
    with EmbeddingSetWriter(tmp_path / "other", 3, {}) as writer:
        writer.write(names(100), vectors)
        with pytest.raises(UserError, match="entry 100: item 'a' has 4 numbers, expected 3"):
            writer.write(["a"], unit(1, 4))
    assert len(EmbeddingSet.open(tmp_path / "other")) == 100
    for bad, word in (("", "empty"), (None, "null")):
        with pytest.raises(UserError, match=f"entry 55: item_id is {word}"):
            write(tmp_path / "set", [*names(55), bad], vectors[:56])  # type: ignore[list-item]
    with pytest.raises(UserError, match=r"entry 99: item '00010' occurs twice \(first: entry 10\)"):
        write(tmp_path / "set", [*names(99), "00010"], vectors)
    with pytest.raises(UserError, match="no embeddings were written"):
        write(tmp_path / "set", [], vectors[:0])
    with pytest.raises(TypeError, match="expected strings"):
        write(tmp_path / "set", pa.array([1, 2]), vectors[:2])
    assert not (tmp_path / "set").exists()


def test_an_error_inside_the_block_keeps_the_old_set(tmp_path: Path) -> None:
    old = write(tmp_path / "set", names(3), unit(3, 4))

    def fail() -> None:
        with EmbeddingSetWriter(tmp_path / "set", 4, {}) as writer:
            writer.write(names(2), unit(2, 4))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert EmbeddingSet.open(tmp_path / "set").fingerprint == old.fingerprint
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("old", [True, False])
def test_a_killed_writer_leaves_nothing_or_the_old_set(tmp_path: Path, old: bool) -> None:
    before = write(tmp_path / "set", names(3), unit(3, 4)).fingerprint if old else None
    script = f"""
        import numpy as np
        from moonrec.embedding_set import EmbeddingSetWriter
        with EmbeddingSetWriter({str(tmp_path / "set")!r}, 4, {{}}) as writer:
            for number in range(10**9):
                if number == 3:
                    print("writing", flush=True)
                ids = [f"{{number}}-{{row}}" for row in range(30_000)]
                writer.write(ids, np.tile(np.float32([1, 0, 0, 0]), (30_000, 1)))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    if old:
        assert EmbeddingSet.open(tmp_path / "set").fingerprint == before
    else:
        assert not (tmp_path / "set").exists()


def test_a_newer_set_replaces_an_older_one_but_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "set", names(3), unit(3, 4))
    reader = EmbeddingSet.open(tmp_path / "set")
    assert len(write(tmp_path / "set", names(5), unit(5, 4))) == 5
    assert reader.vectors([3]).any()  # an open set lives on
    (tmp_path / "set" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="choose another output path"):
        write(tmp_path / "set", names(3), unit(3, 4))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="choose another output path"):
        write(tmp_path / "file", names(3), unit(3, 4))
    assert (tmp_path / "file").read_text() == "mine"


def test_damaged_sets_are_refused_with_the_file_named(tmp_path: Path) -> None:
    def damaged(file: str, content: bytes | None) -> str:
        write(tmp_path / "set", names(30), unit(30, 4))
        (tmp_path / "set" / file).unlink()
        if content is not None:
            (tmp_path / "set" / file).write_bytes(content)
        with pytest.raises(UserError) as caught:
            EmbeddingSet.open(tmp_path / "set")
        for path in (tmp_path / "set").iterdir():
            path.unlink()
        (tmp_path / "set").rmdir()
        return str(caught.value)

    with pytest.raises(UserError, match="no such embedding set"):
        EmbeddingSet.open(tmp_path / "nowhere")
    good = write(tmp_path / "good", names(30), unit(30, 4)).metadata
    arrow = (tmp_path / "good" / "vectors.arrow").read_bytes()
    assert "metadata.json: missing" in damaged("metadata.json", None)
    assert "metadata.json: is not JSON" in damaged("metadata.json", b"{")
    assert "expected a JSON object" in damaged("metadata.json", b"[]")
    assert "holds 30 entries, metadata.json says 31" in damaged(
        "metadata.json", json.dumps({**good, "rows": 31}).encode()
    )
    assert "vectors have 4 numbers, metadata.json says 5" in damaged(
        "metadata.json", json.dumps({**good, "dimension": 5}).encode()
    )
    assert "'dimension' is '4', expected int" in damaged(
        "metadata.json", json.dumps({**good, "dimension": "4"}).encode()
    )
    assert "'dtype' is 'float32'" in damaged(
        "metadata.json", json.dumps({**good, "dtype": "float32"}).encode()
    )
    assert "vectors.arrow: missing" in damaged("vectors.arrow", None)
    assert "vectors.arrow: damaged" in damaged("vectors.arrow", arrow[:-20])
    assert "vectors.arrow: damaged" in damaged("vectors.arrow", b"")
    assert "vectors.arrow: damaged" in damaged("vectors.arrow", b"\x80\x04pickle" * 100)


def ipc(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as file:
        file.write_table(table)
    return sink.getvalue().to_pybytes()


def test_arrow_files_of_another_form_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "set", names(30), unit(30, 4))
    path = tmp_path / "set" / "vectors.arrow"
    halves = pa.array(unit(30, 4).astype(np.float16).ravel())
    ids, vectors = pa.array(names(30)), pa.FixedSizeListArray.from_arrays(halves, 4)
    floats = vectors.cast(pa.list_(pa.float32(), 4))
    nulls = pa.array([None, *vectors.to_pylist()[1:]], vectors.type)
    for table, options, message in (
        (pa.table({"item_id": ids, "vector": floats}), {}, "expected .*halffloat"),
        (pa.table({"item_id": ids}), {}, "expected .*halffloat"),
        (pa.table({"item_id": ids, "vector": nulls}), {}, "null entries"),
        (pa.table({"item_id": ids, "vector": vectors}), {"compression": "zstd"}, "compressed"),
    ):
        path.write_bytes(ipc(table, **options))
        with pytest.raises(UserError, match=message):
            EmbeddingSet.open(tmp_path / "set")


def test_no_flipped_bytes_crash_the_reader(tmp_path: Path, small_batches: None) -> None:
    write(tmp_path / "set", names(120), unit(120, 4))
    path = tmp_path / "set" / "vectors.arrow"
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        bad = bytearray(good)
        place = int(rng.integers(0, len(bad) - 8))
        bad[place : place + 4] = int(rng.choice([-1, 0, 2**31 - 1, 10**6])).to_bytes(4, "little", signed=True)
        fresh = tmp_path / "fresh"
        fresh.write_bytes(bad)
        fresh.replace(path)  # not written in place: maps of the former file may still be alive
        try:
            embeddings = EmbeddingSet.open(tmp_path / "set")
            embeddings.rows(["00003", "x"])
            embeddings.vectors(np.arange(len(embeddings) + 1))
        except UserError:
            refused += 1
    assert 50 < refused < 400


@pytest.fixture(scope="module")
def large_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 M x 16, 90 MB."""
    path = tmp_path_factory.mktemp("large") / "set"
    vectors = unit(200_000, 16)
    with EmbeddingSetWriter(path, 16, {}) as writer:
        for part in range(10):
            writer.write([f"{part}{row:06d}" for row in range(200_000)], vectors)
    return path


@pytest.mark.alone
def test_opening_reads_no_vectors_and_is_fast(large_set: Path) -> None:
    script = f"""
        import resource, time
        from moonrec.embedding_set import EmbeddingSet
        import numpy as np
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
        before, start = resident(), time.perf_counter()
        embeddings = EmbeddingSet.open({str(large_set)!r})
        seconds = time.perf_counter() - start
        opened = resident() - before
        embeddings.vectors(np.array([1, 1_000_000, 2_000_000]))
        print(seconds, opened, resident() - before)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.check_output([sys.executable, "-c", textwrap.dedent(script)], env=environment)
    seconds, opened, looked_up = map(float, output.split())
    file_size = (large_set / "vectors.arrow").stat().st_size
    assert file_size > 80e6
    assert seconds < 0.5
    assert opened < file_size / 3
    assert looked_up < file_size / 2


def test_blocks_share_the_mapped_memory(large_set: Path) -> None:
    embeddings = EmbeddingSet.open(large_set)
    allocated = pa.total_allocated_bytes()
    blocks = list(embeddings.blocks())
    assert pa.total_allocated_bytes() == allocated
    assert sum(map(len, blocks)) == 2_000_000
    assert not any(block.flags.owndata or block.flags.writeable for block in blocks)


@pytest.fixture(scope="module")
def hypothesis_set(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    """Three batches, one of them short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding_writer, "BATCH_ROWS", 50)
        return write(tmp_path_factory.mktemp("gather") / "set", names(120), unit(120, 8))
