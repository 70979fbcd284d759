"""Export: the encoder's vectors, in the catalogue's order, complete or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_export_cases import exported, toys
from encoder_helpers import CPU, Shop, busy_encoder, picture, write_table

from encoders.encoding import encode
from encoders.loading import COMPACT, load_encoder
from encoders.products import iter_items, view_of
from encoders.towers import ImageTower, TextTower, Words
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError
from moonrec.tables import ITEMS, open_table

pytest_plugins = ["encoder_fixtures"]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    busy_encoder().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("modality", ["multimodal", "image", "text"])
def test_vectors_are_the_encoders_in_the_order_of_the_catalogue(
    modality: str, shop: Shop, encoder_folder: Path, tmp_path: Path
) -> None:
    found = exported(tmp_path / "set", encoder_folder, shop.items, cache=shop.cache, modality=modality)
    encoder, _ = load_encoder(str(encoder_folder))
    table = encoder.preparer(Path(shop.cache), CPU).table(iter_items(open_table(shop.items, ITEMS)))
    vectors, empty = encode(encoder, table, device=CPU, view=view_of(modality))
    covered = [key for key, nothing in zip(shop.item_ids(), empty, strict=True) if not nothing]
    assert found.ids.to_pylist() == covered
    np.testing.assert_array_equal(found.matrix(), vectors[~empty].astype(np.float16))
    assert found.metadata["modality"] == modality
    assert found.metadata["encoder_fingerprint"] == encoder.fingerprint()
    assert found.metadata["empty"] == empty.sum()
    assert found.metadata["export"]["encoded"] == len(found)


def test_fewer_dimensions_are_the_prefix_at_unit_length(
    shop: Shop, encoder_folder: Path, tmp_path: Path
) -> None:
    full = exported(tmp_path / "full", encoder_folder, shop.items, cache=shop.cache)
    short = exported(tmp_path / "short", encoder_folder, shop.items, cache=shop.cache, dim=24)
    vectors = full.matrix().astype(np.float32)[:, :24]
    assert short.dimension == 24
    np.testing.assert_allclose(
        short.matrix(), vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=2e-3
    )
    assert full.metadata["matryoshka_sizes"] == [32]
    assert short.metadata["matryoshka_sizes"] == [24]


def test_the_same_call_gives_the_same_embedding_set(shop: Shop, tmp_path: Path) -> None:
    sets = [exported(tmp_path / name, COMPACT, shop.items, cache=shop.cache) for name in ("first", "again")]
    assert sets[0].fingerprint == sets[1].fingerprint
    assert sets[0].metadata["encoder_fingerprint"] == sets[1].metadata["encoder_fingerprint"]
    assert len(sets[0]) == 60
    sizes = load_encoder(COMPACT)[0].config.dims
    assert sets[0].metadata["matryoshka_sizes"] == list(sizes)


def test_products_that_show_nothing_are_left_out_and_counted(encoder_folder: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"item_id": "001", "title": "red dress", "image": picture(1)},
        {"item_id": "002", "title": None, "image": None},
        {"item_id": "1", "title": " ", "image": picture(2)},
        {"item_id": "3", "title": "blue shirt", "image": b"broken"},
    ]
    items = str(write_table(tmp_path / "items.parquet", rows))
    both = exported(tmp_path / "both", encoder_folder, items)
    assert both.ids.to_pylist() == ["001", "1", "3"]
    assert both.metadata["empty"] == 1
    assert both.metadata["broken_images"]["count"] == 1
    assert [example["id"] for example in both.metadata["broken_images"]["examples"]] == ["3"]
    image = exported(tmp_path / "image", encoder_folder, items, modality="image")
    assert image.ids.to_pylist() == ["001", "1"]
    assert image.metadata["broken_images"]["count"] == 1
    assert exported(tmp_path / "text", COMPACT, items, modality="text").metadata["empty"] == 2
    words = exported(tmp_path / "words", encoder_folder, items, modality="text")
    assert words.metadata["broken_images"]["count"] == 0
    # The untrained encoder passes the catalogue twice; a broken picture counts once.
    assert exported(tmp_path / "one", COMPACT, items).metadata["broken_images"]["count"] == 1


@pytest.mark.parametrize(
    ("modality", "computed"), [("multimodal", {"image", "text"}), ("image", {"image"}), ("text", {"text"})]
)
def test_only_the_tower_that_the_modality_shows_computes(
    modality: str, computed: set[str], encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    image, text = ImageTower.forward, TextTower.forward

    def image_seen(tower: ImageTower, pixels: torch.Tensor) -> torch.Tensor:
        seen.add("image")
        return image(tower, pixels)

    def text_seen(tower: TextTower, words: Words) -> torch.Tensor:
        seen.add("text")
        return text(tower, words)

    monkeypatch.setattr(ImageTower, "forward", image_seen)
    monkeypatch.setattr(TextTower, "forward", text_seen)
    rows = [{"item_id": str(n), "title": f"red dress {n}", "image": picture(n)} for n in range(5)]
    items = str(write_table(tmp_path / "items.parquet", rows))
    assert len(exported(tmp_path / "set", encoder_folder, items, modality=modality)) == 5
    assert seen == computed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "sound"}, "--modality sound"),
        ({"dim": 33}, "--dim 33"),
        ({"dim": 0}, "--dim 0"),
        ({"encoder": "/nowhere/at/all"}, "no such folder"),
        ({"encoder": "{incomplete}"}, "model.safetensors"),
        ({"items": "{twice}"}, "duplicate item_id '7'"),
        ({"items": "{nothing}", "modality": "image"}, "no product shows anything as image"),
        ({"out": "{theirs}"}, "not just an embedding set"),
        ({"out": "{busy}"}, "is in the way"),
        ({"out": "{items}"}, "choose another output"),
    ],
)
def test_impossible_wishes_are_one_line_and_write_nothing(
    options: dict[str, Any], message: str, encoder_folder: Path, tmp_path: Path
) -> None:
    paths = {
        "items": write_table(tmp_path / "items.parquet", toys(3)),
        "twice": write_table(tmp_path / "twice.parquet", [*toys(8), toys(8)[7]]),
        "nothing": write_table(tmp_path / "nothing.parquet", toys(2)),
    }
    for name in ("incomplete", "theirs", "busy.partial"):
        paths[name.split(".")[0]] = tmp_path / name.split(".")[0]
        (tmp_path / name).mkdir()
    (tmp_path / "incomplete" / "config.json").write_text((encoder_folder / "config.json").read_text())
    (tmp_path / "theirs" / "thesis.txt").write_text("all of it")
    (tmp_path / "busy.partial" / "thesis.txt").write_text("all of it")
    before = sorted(tmp_path.rglob("*"))
    wish: dict[str, Any] = {"encoder": str(encoder_folder), "items": "{items}", "out": str(tmp_path / "set")}
    wish = {
        key: value.format(**paths) if isinstance(value, str) else value
        for key, value in (wish | options).items()
    }
    with pytest.raises(UserError, match=message) as told:
        exported(Path(wish.pop("out")), wish.pop("encoder"), wish.pop("items"), **wish)
    assert "\n" not in str(told.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_vector_that_is_not_finite_is_refused_with_its_item(tmp_path: Path) -> None:
    encoder = busy_encoder()
    encoder.out.bias.data[0] = float("nan")
    encoder.save_pretrained(tmp_path / "model")
    items = write_table(tmp_path / "items.parquet", toys(3))
    with pytest.raises(UserError, match="item '0': its vector is not finite"):
        exported(tmp_path / "set", tmp_path / "model", str(items))
    assert not (tmp_path / "set").exists()
    assert not (tmp_path / "set.partial").exists()


def test_an_older_set_is_replaced_and_its_readers_keep_what_they_opened(
    encoder_folder: Path, tmp_path: Path
) -> None:
    items = [str(write_table(tmp_path / f"{rows}.parquet", toys(rows))) for rows in (5, 9)]
    older = exported(tmp_path / "set", encoder_folder, items[0])
    assert len(exported(tmp_path / "set", encoder_folder, items[1])) == 9
    assert older.ids.to_pylist() == [str(number) for number in range(5)]
    assert np.isfinite(older.matrix()).all()
    assert isinstance(EmbeddingSet.open(tmp_path / "set"), EmbeddingSet)
