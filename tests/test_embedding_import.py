from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moonrec.embedding_import import import_embeddings
from moonrec.errors import UserError


def unit(rows: int, width: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(rows, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def names(rows: int) -> list[str]:
    return [f"{number:05d}" for number in range(rows)]  # leading zeros: ids are no numbers


def parquet(path: Path, ids: object, vectors: object, kind: pa.DataType | None = None) -> Path:
    pq.write_table(pa.table({"item_id": ids, "embedding": pa.array(vectors, kind)}), path)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.list_(pa.float64(), 6),
        pa.large_list(pa.float32()),
        pa.list_(pa.float16()),
        pa.list_(pa.float16(), 6),
    ],
    ids=str,
)
def test_every_kind_of_float_list_is_imported(tmp_path: Path, kind: pa.DataType) -> None:
    vectors = unit(50, 6).astype(np.float16)
    source = parquet(tmp_path / "v.parquet", names(50), list(vectors), kind)
    embeddings = import_embeddings(source, tmp_path / "set")
    assert embeddings.ids.to_pylist() == names(50)
    np.testing.assert_array_equal(embeddings.matrix(), vectors)


def test_a_folder_is_read_in_order_of_its_file_names_and_normalised(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    scale = np.array([1e-30, 1e20, 3.0, 1.0])[:, None]
    vectors = unit(4, 5).astype(np.float64)
    parquet(folder / "b.parquet", ["c", "d"], list((vectors * scale)[2:]))
    parquet(folder / "a.parquet", ["a", "b"], list((vectors * scale)[:2]))
    with pytest.raises(UserError, match="--normalize"):
        import_embeddings(folder, tmp_path / "set")
    embeddings = import_embeddings(folder, tmp_path / "set", normalize=True)
    assert embeddings.ids.to_pylist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(embeddings.matrix(), vectors, atol=1e-3)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("row", "vector", "message"),
    [
        (17, [math.nan, 1.0], "row 17: item '00017' has nan"),
        (17, [math.inf, 1.0], "row 17: item '00017' has inf"),
        (17, [0.0, 0.0], "row 17: item '00017' has a zero vector"),
        (17, None, "row 17: item '00017' has no vector"),
        (17, [None, 1.0], "row 17: item '00017' has a null in its vector"),
        (17, [1.0], "row 17: item '00017' has 1 numbers, expected 2"),
        (0, [], "row 0: item '00000' has an empty vector"),
    ],
)
def test_bad_vectors_are_refused_with_file_row_and_id(
    tmp_path: Path, normalize: bool, row: int, vector: object, message: str
) -> None:
    vectors: list[object] = [[1.0, 0.0]] * 40
    vectors[row] = vector
    source = parquet(tmp_path / "v.parquet", names(40), vectors)
    with pytest.raises(UserError, match=f"v.parquet: {message}"):
        import_embeddings(source, tmp_path / "set", normalize=normalize)
    assert not (tmp_path / "set").exists()


def test_the_row_counts_from_the_start_of_its_own_file(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    parquet(folder / "a.parquet", names(30), [[1.0, 0.0]] * 30)
    parquet(folder / "b.parquet", ["x", "y", "00004"], [[1.0, 0.0]] * 3)
    with pytest.raises(UserError, match=r"b\.parquet: row 2: item '00004' occurs twice .*a.parquet: row 4"):
        import_embeddings(folder, tmp_path / "set")
    parquet(folder / "b.parquet", ["x", "y", "z"], [[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    with pytest.raises(UserError, match=r"b\.parquet: row 2: item 'z' has a vector of length 5"):
        import_embeddings(folder, tmp_path / "set")
    parquet(folder / "b.parquet", ["x", "y", "z"], [[1.0, 0.0, 0.0]] * 3)
    with pytest.raises(UserError, match=r"b\.parquet: row 0: item 'x' has 3 numbers, expected 2"):
        import_embeddings(folder, tmp_path / "set")


def test_tables_of_another_form_are_refused(tmp_path: Path) -> None:
    def refusal(source: Path, **options: str) -> str:
        with pytest.raises(UserError) as caught:
            import_embeddings(source, tmp_path / "set", **options)  # type: ignore[arg-type]
        return str(caught.value)

    vectors = pa.array([[1.0, 0.0]], pa.list_(pa.float32()))
    path, other = tmp_path / "v.parquet", tmp_path / "other"
    other.mkdir()
    assert "no such file" in refusal(tmp_path / "nowhere.parquet")
    assert "holds no Parquet file" in refusal(other)
    path.write_text("not parquet")
    assert "not a Parquet file" in refusal(path)
    assert "has no rows" in refusal(parquet(path, pa.array([], pa.string()), [], vectors.type))
    assert "'item_id' is int64, expected string" in refusal(parquet(path, [1], vectors))
    parquet(path, pa.array([b"\xff"]).cast(pa.string(), safe=False), vectors)
    assert "row 0: the id is not UTF-8" in refusal(path)
    assert "row 0: item_id is null" in refusal(parquet(path, pa.array([None], pa.string()), vectors))
    assert "column 'sku' is missing" in refusal(parquet(path, ["a"], vectors), id_column="sku")
    assert "column 'v' is missing" in refusal(path, vector_column="v")
    assert "'item_id' is string, expected a list of floats" in refusal(path, vector_column="item_id")
    pq.write_table(pa.table({"item_id": ["a"], "n": [1]}), path)
    assert "expected one column that is a list of floats" in refusal(path)
    pq.write_table(pa.table({"item_id": ["a"], "v": vectors, "w": vectors}), path)
    assert "expected the name of one column of vectors" in refusal(path)
    assert len(import_embeddings(path, tmp_path / "set", vector_column="w")) == 1
