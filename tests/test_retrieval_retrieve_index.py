from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from retrieve_case import LATE, NEW, OLD, Case, request, trained, write_set
from safetensors.torch import save

from ctr import IndexConfig, RetrieveConfig, index_items, load_retrieval, retrieve
from moonrec.cli import main
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return trained(tmp_path_factory.getbasetemp())


def found(model: Path, case: Case, folder: Path, users: list[str], **options: Any) -> pa.Table:
    path = request(folder / "u.parquet", user_id=users)
    events = options.pop("events", case.folder / "events.parquet")
    config = RetrieveConfig(model=model, users=path, events=events, out=folder / "c.parquet", **options)
    retrieve(config)
    return pq.read_table(folder / "c.parquet")


def test_new_items_enter_by_their_vectors_and_are_found(case: Case, tmp_path: Path) -> None:
    before = (case.plain / "model" / "weights.safetensors").read_bytes()
    told = index_items(IndexConfig(model=case.plain, embeddings=case.folder / "all", out=tmp_path / "index"))
    assert (told["items"], told["new"], told["left_out"]) == (len(OLD) + len(NEW), len(NEW), 0)
    # A stranger who took three items of the second taste: its new items are next.
    bought = ["i1_0", "i1_1", "i1_2"]
    events = request(
        tmp_path / "e.parquet", user_id=["s"] * 3, item_id=bought, timestamp=[LATE, LATE + 1, LATE + 2]
    )
    options: dict[str, Any] = {
        "events": events,
        "index": tmp_path / "index",
        "embeddings": case.folder / "all",
    }
    lists = found(case.plain, case, tmp_path, ["s"], k=14, **options)
    assert lists["source"].to_pylist() == ["history"]
    assert {"new1_0", "new1_1"} < set(lists["item_ids"][0].as_py())
    assert not {"new1_0", "new1_1"} & set(
        found(case.plain, case, tmp_path, ["s"], k=14, events=events)["item_ids"][0].as_py()
    )
    assert (case.plain / "model" / "weights.safetensors").read_bytes() == before


def test_a_history_of_new_items_alone_counts(case: Case, tmp_path: Path) -> None:
    """They need not be in the index, only in the embedding set."""
    events = request(tmp_path / "e.parquet", user_id=["s"], item_id=["new2_0"], timestamp=[LATE])
    own = found(case.plain, case, tmp_path, ["s"], k=6, events=events)
    assert own["source"].to_pylist() == ["popularity"]
    all_ = found(case.plain, case, tmp_path, ["s"], k=6, events=events, embeddings=case.folder / "all")
    assert all_["source"].to_pylist() == ["history"]
    assert sum(item.startswith("i2_") for item in all_["item_ids"][0].as_py()) >= 5


def test_the_index_of_the_training_items_is_the_one_that_training_made(case: Case, tmp_path: Path) -> None:
    for model, items in ((case.plain, None), (case.rich, case.folder / "items.parquet")):
        index_items(IndexConfig(model=model, items=items, out=tmp_path / model.name))
        own, again = EmbeddingSet.open(model / "index"), EmbeddingSet.open(tmp_path / model.name)
        assert again.fingerprint == own.fingerprint


def test_items_of_which_nothing_is_known_are_left_out_and_counted(case: Case, tmp_path: Path) -> None:
    config = IndexConfig(model=case.rich, items=case.folder / "all_items.parquet", out=tmp_path / "index")
    told = index_items(config)
    # New items have no vector in the set of the training, but known categories; one item has nothing.
    assert (told["items"], told["new"], told["left_out"]) == (len(OLD) + len(NEW), len(NEW), 1)
    assert "unheard of" not in EmbeddingSet.open(tmp_path / "index").ids.to_pylist()
    items = request(tmp_path / "i.parquet", item_id=["x", "y"], title=["x", "y"])
    with pytest.raises(UserError, match=r"can tell nothing of any of the 2 items"):
        index_items(IndexConfig(model=case.plain, items=items, out=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_an_index_is_replaced_as_a_whole_and_nothing_else_is(case: Case, tmp_path: Path) -> None:
    config = IndexConfig(model=case.plain, kind="hnsw", out=tmp_path / "index")
    index_items(config)
    first = {one.name for one in (tmp_path / "index").iterdir()}
    index_items(IndexConfig(model=case.plain, out=tmp_path / "index", embeddings=case.folder / "all"))
    assert {one.name for one in (tmp_path / "index").iterdir()} == first - {"index.faiss"}
    assert len(EmbeddingSet.open(tmp_path / "index")) == len(OLD) + len(NEW)
    copy = tmp_path / "vectors"
    shutil.copytree(case.folder / "all", copy)
    with pytest.raises(UserError, match=r"is no index of items"):
        index_items(IndexConfig(model=case.plain, out=copy))
    assert EmbeddingSet.open(copy).fingerprint == EmbeddingSet.open(case.folder / "all").fingerprint


def test_an_approximate_index_finds_what_the_exact_search_finds(case: Case, tmp_path: Path) -> None:
    users = [f"u{n:02d}" for n in range(20)]
    path = request(tmp_path / "u.parquet", user_id=users, device=["d1"] * 20, age=[30.0] * 20)
    options: dict[str, Any] = {
        "model": case.rich,
        "users": path,
        "events": case.folder / "events.parquet",
        "k": 10,
    }
    told = retrieve(RetrieveConfig(out=tmp_path / "a.parquet", **options))
    exact = retrieve(RetrieveConfig(out=tmp_path / "b.parquet", exact=True, **options))
    assert (told["index"], exact["index"]) == ("hnsw", "exact")
    near = pq.read_table(tmp_path / "a.parquet")["item_ids"].to_pylist()
    best = pq.read_table(tmp_path / "b.parquet")["item_ids"].to_pylist()
    assert np.mean([len(set(one) & set(other)) / 10 for one, other in zip(near, best, strict=True)]) > 0.9


def test_a_set_of_another_encoder_is_taken_on_request_only(case: Case, tmp_path: Path) -> None:
    vectors = EmbeddingSet.open(case.folder / "old").matrix().astype(np.float32)
    write_set(tmp_path / "other", OLD, vectors[::-1], "encoder-2")
    write_set(tmp_path / "untold", OLD, vectors[::-1], None)
    write_set(tmp_path / "narrow", OLD, np.eye(len(OLD), 8)[np.arange(len(OLD)) % 8], "encoder-1")
    for name in ("other", "untold"):
        with pytest.raises(UserError, match=rf"{name}: made by .*--allow-other-embeddings"):
            load_retrieval(case.plain, tmp_path / name)
        load_retrieval(case.plain, tmp_path / name, allow_other_embeddings=True)
    with pytest.raises(UserError, match=r"vectors of 8 numbers"):
        load_retrieval(case.plain, tmp_path / "narrow", allow_other_embeddings=True)


def test_an_index_of_another_model_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"belongs to another model"):
        found(case.plain, case, tmp_path, ["u01"], index=case.rich / "index")
    with pytest.raises(UserError, match=r"no such index; make one with `moonrec index"):
        found(case.plain, case, tmp_path, ["u01"], index=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no index"):
        found(case.plain, case, tmp_path, ["u01"], index=case.folder / "old")


@pytest.mark.parametrize("name", ["vectors.arrow", "metadata.json", "index.json", "index.faiss"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "garbled"])
def test_a_damaged_index_is_one_line(case: Case, tmp_path: Path, name: str, damage: str) -> None:
    shutil.copytree(case.rich / "index", tmp_path / "index")
    file = tmp_path / "index" / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        half = len(content) // 2
        file.write_bytes(content[:half] if damage == "truncated" else bytes(half) + content[half:])
    users = request(tmp_path / "u.parquet", user_id=["u01"], device=["d1"], age=[1.0])
    arguments: list[Any] = ["retrieve", "--model", case.rich, "--users", users, "--index", tmp_path / "index"]
    arguments += ["--events", case.folder / "events.parquet", "-o", tmp_path / "c.parquet"]
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "c.parquet").exists()


@pytest.mark.parametrize("number", [float("nan"), 0.0, 0.5])
def test_vectors_that_were_changed_are_found_before_the_search(
    case: Case, tmp_path: Path, number: float
) -> None:
    shutil.copytree(case.plain / "index", tmp_path / "index")
    file = tmp_path / "index" / "vectors.arrow"
    vectors = EmbeddingSet.open(tmp_path / "index").matrix()
    content = file.read_bytes()
    place = content.index(vectors[3].tobytes())
    file.write_bytes(content[:place] + np.float16(number).tobytes() + content[place + 2 :])
    with pytest.raises(
        UserError, match=r"vectors\.arrow: is damaged .*moonrec index --model RUN --kind exact"
    ):
        found(case.plain, case, tmp_path, ["u01"], index=tmp_path / "index")


def test_a_model_of_categories_asks_for_the_items(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--items: missing"):
        index_items(IndexConfig(model=case.rich, out=tmp_path / "index"))
    items = request(tmp_path / "i.parquet", item_id=OLD, title=OLD)
    with pytest.raises(UserError, match=r"column 'category' is missing"):
        index_items(IndexConfig(model=case.rich, items=items, out=tmp_path / "index"))


def test_options_that_cannot_be_used_are_refused(case: Case, tmp_path: Path) -> None:
    usable = IndexConfig(model=case.plain, out=tmp_path / "index")
    with pytest.raises(UserError, match="--kind flat"):
        index_items(replace(usable, kind="flat"))
    with pytest.raises(UserError, match="--seed 2147483648"):
        index_items(replace(usable, seed=2**31))
    with pytest.raises(UserError, match="--k 0"):
        found(case.plain, case, tmp_path, ["u01"], k=0)
    with pytest.raises(UserError, match=r"--new-share 1\.5"):
        found(case.plain, case, tmp_path, ["u01"], new_share=1.5)


def test_a_damaged_sample_of_users_is_one_line(case: Case, tmp_path: Path) -> None:
    shutil.copytree(case.plain, tmp_path / "run")
    sample = tmp_path / "run" / "model" / "user_sample.safetensors"
    config = IndexConfig(model=tmp_path / "run", out=tmp_path / "index")
    foreign = {"users": torch.zeros(2, 16, dtype=torch.bfloat16)}
    for content in (sample.read_bytes()[:100], b"", save(foreign)):
        sample.write_bytes(content)
        with pytest.raises(UserError, match=r"user_sample\.safetensors: is missing or damaged"):
            index_items(config)


def test_the_index_command_tells_what_it_made(case: Case, tmp_path: Path) -> None:
    arguments: list[Any] = ["index", "--model", case.plain, "--embeddings", case.folder / "all", "--json"]
    result = CliRunner().invoke(main, [str(one) for one in [*arguments, "-o", tmp_path / "index"]])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["new"] == len(NEW)
    result = CliRunner().invoke(main, [str(one) for one in [*arguments, "-o", case.plain / "index"]])
    assert result.exit_code == 2
    assert "lies in the input --model" in result.stderr
