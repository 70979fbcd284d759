"""Index files that are damaged, missing or another's: one line that says so, before faiss reads a byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctr.retrieval.index import build_index, open_index
from moonrec.embedding_set import EmbeddingSetWriter
from moonrec.errors import UserError


def write_items(folder: Path, items: int, seed: int = 0, width: int = 8) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(items, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with EmbeddingSetWriter(folder, width, {}) as writer:
        writer.write([str(number) for number in range(items)], vectors.astype(np.float32))
    return vectors.astype(np.float32)


@pytest.fixture(scope="module", params=["hnsw", "ivfpq"])
def pristine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "index"
    build_index(folder, request.param, write_items(folder, 200)[:10], model_fingerprint="model", k=5)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "index"))


def truncate(folder: Path) -> None:
    content = (folder / "index.faiss").read_bytes()
    (folder / "index.faiss").write_bytes(content[: len(content) // 2])


def flip(folder: Path) -> None:
    content = bytearray((folder / "index.faiss").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "index.faiss").write_bytes(bytes(content))


def edit(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**values, **changes}))

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, r"index\.faiss: is not the file that index\.json was written with"),
        (flip, r"index\.faiss: is not the file that index\.json was written with"),
        (lambda folder: (folder / "index.faiss").unlink(), r"index\.faiss: cannot be read"),
        (lambda folder: (folder / "index.json").unlink(), r"index\.json: missing"),
        (lambda folder: (folder / "index.json").write_text("{"), r"index\.json: is damaged"),
        (lambda folder: (folder / "index.json").write_text("[]"), r"index\.json: is damaged"),
        (edit(kind="annoy"), r"index\.json: is damaged .*'annoy'"),
        (edit(effort={"k": 5, "depth": -1, "factor": 1}), r"index\.json: is damaged"),
        (edit(effort=None), r"index\.json: is damaged"),
    ],
)
def test_a_spoilt_index_is_refused_in_one_line(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=message) as raised:
        open_index(folder, model_fingerprint="model")
    assert "make another" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_index_of_other_vectors_or_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    assert open_index(folder, model_fingerprint="model").kind in ("hnsw", "ivfpq")
    with pytest.raises(UserError, match="belongs to another model"):
        open_index(folder, model_fingerprint="other")
    write_items(tmp_path / "other", 200, seed=1)
    for name in ("index.json", "index.faiss"):
        shutil.copy(folder / name, tmp_path / "other")
    with pytest.raises(UserError, match="was built from other vectors"):
        open_index(tmp_path / "other", model_fingerprint="model")


def test_a_file_of_another_size_is_refused_although_its_digest_fits(folder: Path, tmp_path: Path) -> None:
    kind = json.loads((folder / "index.json").read_text())["kind"]
    other = tmp_path / "other"
    build_index(other, kind, write_items(other, 150)[:5], model_fingerprint="model", k=5)
    shutil.copy(other / "index.faiss", folder)
    edit(sha256=json.loads((other / "index.json").read_text())["sha256"])(folder)
    with pytest.raises(UserError, match=r"150 x 8, expected .* 200 x 8"):
        open_index(folder)


def test_a_new_kind_takes_the_place_of_the_old_one(folder: Path) -> None:
    build_index(folder, "exact", np.ones((1, 8), np.float32), model_fingerprint="model", k=5)
    assert not (folder / "index.faiss").exists()
    assert open_index(folder, model_fingerprint="model").kind == "exact"


def test_an_open_index_keeps_its_vectors_on_disk(tmp_path: Path) -> None:
    """The graph and its vectors take 5 MB; mapped pages of a file are not counted as the process's own."""
    folder = tmp_path / "index"
    vectors = write_items(folder, 4_000, width=512)
    build_index(folder, "hnsw", vectors[:20], model_fingerprint="model", k=5, recall=0.1)
    program = (
        "import sys, faiss, torch; from ctr.retrieval.index import open_index\n"
        "def own():\n"
        "    return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon'))\n"
        "before = own(); index = open_index(sys.argv[1]); print(own() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2_500


def test_unknown_kinds_and_missing_users_are_bugs_of_the_caller(tmp_path: Path) -> None:
    vectors = write_items(tmp_path / "set", 10)
    with pytest.raises(ValueError, match="kind is 'annoy', expected one of exact, hnsw, ivfpq"):
        build_index(tmp_path / "set", "annoy", vectors, model_fingerprint="m")
    with pytest.raises(ValueError, match="no user vectors"):
        build_index(tmp_path / "set", "exact", vectors[:0], model_fingerprint="m")
