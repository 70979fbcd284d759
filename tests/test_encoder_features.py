"""Features: computed once, kept by content, the same from the cache as from the towers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_helpers import CPU, picture, random_features, write_table
from PIL import Image
from torch import nn

import encoders.features
from encoders.features import FeatureBatch, FeatureTable, Featurizer
from encoders.products import IMAGE_ONLY, TEXT_ONLY, Aspect, BrokenImages, Product, iter_items, iter_queries
from encoders.raw_batches import RawPixels, run_towers
from encoders.towers import Towers
from moonrec.errors import UserError
from moonrec.tables import ITEMS, SEARCHES, open_table

pytest_plugins = ["encoder_fixtures"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of four products instead of 256, so that a few products fill several."""
    monkeypatch.setattr(encoders.features, "SHARD_ROWS", 4)


def products(count: int = 10) -> list[Product]:
    """Products of all kinds: the third of every four has no picture, the fourth no words."""
    return [
        Product(
            f"p{i}",
            None if i % 4 == 2 else picture(i),
            () if i % 4 == 3 else ((Aspect.TITLE, f"red dress number {i}"), (Aspect.CATEGORY, "A, B")),
        )
        for i in range(count)
    ]


def featurizer(towers: Towers, cache: Path | None, fingerprint: str = "towers") -> Featurizer:
    return Featurizer(towers=towers, fingerprint=fingerprint, cache=cache, device=CPU)


@contextmanager
def counted(towers: Towers) -> Iterator[dict[str, int]]:
    """Counts the pictures and texts that pass through the towers."""
    seen = {"pictures": 0, "texts": 0}

    def picture_hook(_: torch.nn.Module, arguments: tuple[torch.Tensor]) -> None:
        seen["pictures"] += len(arguments[0])

    def text_hook(_: torch.nn.Module, arguments: tuple[encoders.features.Words]) -> None:
        seen["texts"] += len(arguments[0].ids_BS)

    handles = [
        towers.image.register_forward_pre_hook(picture_hook),
        towers.text.register_forward_pre_hook(text_hook),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def assert_equal(a: FeatureBatch, b: FeatureBatch) -> None:
    for name, value in vars(a).items():
        assert torch.equal(value, vars(b)[name]), name


def everything(table: FeatureTable) -> FeatureBatch:
    return table.gather(np.arange(len(table)))


def test_cached_features_are_those_computed_and_a_second_pass_computes_nothing(
    towers: Towers, tmp_path: Path
) -> None:
    computed = everything(featurizer(towers, None).table([products()]))
    first = featurizer(towers, tmp_path)
    assert_equal(everything(first.table([products()])), computed)
    with counted(towers) as seen:
        again = featurizer(towers, tmp_path).table([products()[:3], products()[3:]])
    assert seen == {"pictures": 0, "texts": 0}
    assert_equal(everything(again), computed)


def test_another_towers_fingerprint_shares_nothing(towers: Towers, tmp_path: Path) -> None:
    featurizer(towers, tmp_path).table([products(4)])
    with counted(towers) as seen:
        featurizer(towers, tmp_path, "other").table([products(4)])
    assert seen["pictures"] == 3


def test_one_changed_picture_recomputes_only_its_shard(towers: Towers, tmp_path: Path) -> None:
    table = featurizer(towers, tmp_path).table([products(12)])
    changed = products(12)
    changed[5] = Product("p5", picture(99), changed[5].texts)
    with counted(towers) as seen:
        after = featurizer(towers, tmp_path).table([changed])
    assert seen == {"pictures": 3, "texts": 4}
    same = np.delete(np.arange(12), 5)
    assert_equal(after.gather(same), table.gather(same))
    assert not torch.equal(after.gather(np.array([5])).image_BGC, table.gather(np.array([5])).image_BGC)


def test_a_product_renamed_is_still_known(towers: Towers, tmp_path: Path) -> None:
    featurizer(towers, tmp_path).table([products(4)])
    renamed = [Product(p.key + "x", p.image, p.texts) for p in products(4)]
    with counted(towers) as seen:
        keys = [key for keys, _ in featurizer(towers, tmp_path).shards([renamed]) for key in keys]
    assert seen == {"pictures": 0, "texts": 0}
    assert keys == ["p0x", "p1x", "p2x", "p3x"]


@pytest.mark.parametrize("damage", ["truncate", "cut", "longer", "header", "empty", "garbage", "delete"])
def test_a_damaged_shard_is_computed_again_and_mended(damage: str, towers: Towers, tmp_path: Path) -> None:
    computed = everything(featurizer(towers, tmp_path).table([products(8)]))
    victim = min(tmp_path.rglob("*.shard"))
    data = victim.read_bytes()
    if damage == "delete":
        victim.unlink()
    else:
        others = {
            "truncate": data[: len(data) // 2],
            "cut": data[:-1],
            "longer": data + b"x",
            "header": data.replace(b'"image"', b'"omage"'),
            "empty": b"",
            "garbage": b"x" * 500,
        }
        victim.write_bytes(others[damage])
    with counted(towers) as seen:
        assert_equal(everything(featurizer(towers, tmp_path).table([products(8)])), computed)
    assert seen == {"pictures": 3, "texts": 4}
    with counted(towers) as seen:
        featurizer(towers, tmp_path).table([products(8)])
    assert seen == {"pictures": 0, "texts": 0}


@pytest.mark.parametrize("kind", ["pictures", "words", "neither"])
def test_catalogues_of_one_modality_come_back_from_the_cache(
    kind: str, towers: Towers, tmp_path: Path
) -> None:
    some = [
        Product(
            f"p{i}",
            picture(i) if kind == "pictures" else None,
            ((Aspect.TITLE, f"sock {i}"),) if kind == "words" else (),
        )
        for i in range(5)
    ]
    computed = everything(featurizer(towers, tmp_path).table([some]))
    with counted(towers) as seen:
        assert_equal(everything(featurizer(towers, tmp_path).table([some])), computed)
    assert seen == {"pictures": 0, "texts": 0}
    assert computed.is_empty_B().tolist() == [kind == "neither"] * 5


def huge_picture() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(stream, "PNG")
    return stream.getvalue()


def test_unusable_pictures_are_counted_and_their_items_encoded_from_the_words(
    towers: Towers, tmp_path: Path
) -> None:
    good, cut = picture(1), picture(2)[:60]
    pictures = {"good": good, "cut": cut, "bomb": huge_picture(), "gone": "photos/gone.png", "none": None}
    rows: list[dict[str, Any]] = [
        {"item_id": name, "title": "red dress", "image": value} for name, value in pictures.items()
    ]
    table = open_table(write_table(tmp_path / "items.parquet", rows), ITEMS)
    for expected_texts in (5, 0):  # broken pictures are counted from the cache, too
        run = featurizer(towers, tmp_path / "cache")
        with counted(towers) as seen:
            features = run.table(iter_items(table))
        assert seen["texts"] == expected_texts
        assert features.has_image().tolist() == [True, False, False, False, False]
        assert run.broken.count == 3
        assert {key for key, _ in run.broken.examples} == {"cut", "bomb", "gone"}
        assert not everything(features).is_empty_B().any()


def test_the_first_twenty_broken_pictures_are_examples() -> None:
    broken = BrokenImages()
    for i in range(30):
        broken.add(f"p{i}", "no bytes")
    told = broken.to_dict()
    assert told["count"] == 30
    assert told["examples"] == [{"id": f"p{i}", "reason": "no bytes"} for i in range(20)]


def test_gathered_batches_hold_each_products_own_features() -> None:
    features = random_features(24)
    rows = np.array([23, 0, 7, 7, 8, 1])
    batch = features.gather(rows)
    for at, row in enumerate(rows):
        alone = features.gather(np.array([row]))
        length = alone.text_mask_BT.shape[1]
        assert length == features.lengths()[row]
        assert torch.equal(batch.image_BGC[at], alone.image_BGC[0])
        assert batch.has_image_B[at] == alone.has_image_B[0] == features.has_image()[row]
        assert torch.equal(batch.text_BTC[at, :length], alone.text_BTC[0])
        assert torch.equal(batch.aspect_BT[at, :length], alone.aspect_BT[0])
        assert batch.text_mask_BT[at].tolist() == [True] * length + [False] * (
            len(batch.text_mask_BT[0]) - length
        )


def test_tables_stand_one_after_the_other(towers: Towers, tmp_path: Path) -> None:
    some = products(7)
    joint = featurizer(towers, tmp_path).table([some[:4]], [some[4:]])
    assert len(joint) == 7
    alone = featurizer(towers, tmp_path).table([some[4:]])
    assert_equal(joint.gather(np.array([5, 6])), alone.gather(np.array([1, 2])))


def test_a_view_shows_its_aspects_and_nothing_else() -> None:
    features = random_features(12)
    rows, batch = np.arange(12), everything(features)
    image, text = features.gather(rows, IMAGE_ONLY), features.gather(rows, TEXT_ONLY)
    assert torch.equal(image.has_image_B, batch.has_image_B)
    assert image.text_mask_BT.shape == (12, 0)
    assert torch.equal(text.text_mask_BT, batch.text_mask_BT)
    assert not text.has_image_B.any()
    assert text.image_BGC.shape[1] == 0
    titles = features.gather(rows, frozenset({Aspect.TITLE, Aspect.IMAGE}))
    assert torch.equal(titles.has_image_B, batch.has_image_B)
    for row in range(12):
        wanted = batch.text_BTC[row][(batch.aspect_BT[row] == Aspect.TITLE) & batch.text_mask_BT[row]]
        assert torch.equal(titles.text_BTC[row][titles.text_mask_BT[row]], wanted)


def test_a_core_region_is_featurized_behind_the_whole_picture(towers: Towers) -> None:
    whole, boxed = products(2)
    boxed = replace(boxed, region=(0.25, 0.5, 1.0, 1.0))
    cut = Image.open(io.BytesIO(boxed.image or b""))
    width, height = cut.size
    stream = io.BytesIO()
    cut.crop((width // 4, height // 2, width, height)).save(stream, "PNG")
    crop = Product("crop", stream.getvalue(), ())
    looking = Featurizer(towers=towers, fingerprint="f", cache=None, device=CPU, regions=True)
    cells = looking.table([[whole, boxed]]).gather(np.arange(2)).image_BGC.float()
    expected = featurizer(towers, None).table([[whole, boxed, crop]]).gather(np.arange(3)).image_BGC.float()
    torch.testing.assert_close(cells[0], torch.cat([expected[0], expected[0]]))
    torch.testing.assert_close(cells[1, :9], expected[1], atol=0.05, rtol=0.05)
    near = nn.functional.cosine_similarity(cells[1, 9:].mean(0), expected[2].mean(0), dim=0)
    far = nn.functional.cosine_similarity(cells[1, 9:].mean(0), expected[1].mean(0), dim=0)
    assert near > 0.9
    assert near > far + 0.05


def test_a_cache_that_is_a_file_is_the_users_mistake(towers: Towers, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        featurizer(towers, tmp_path / "file").table([products(4)])


def test_products_say_what_the_rows_say(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "item_id": "007",
            "title": " Red dress ",
            "category": "Women > Dresses",
            "attributes": {"colour": "red", "fit": None},
            "images": [{"bytes": b"second", "path": None}],
        },
        {
            "item_id": "8",
            "title": None,
            "description": "  ",
            "image": b"own",
            "images": [{"bytes": b"other"}],
        },
    ]
    first, second = (
        p for batch in iter_items(open_table(write_table(tmp_path / "i.parquet", rows), ITEMS)) for p in batch
    )
    assert first.key == "007"
    assert first.image == b"second"
    assert first.texts == (
        (Aspect.TITLE, "Red dress"),
        (Aspect.CATEGORY, "Women, Dresses"),
        (Aspect.ATTRIBUTES, "colour: red"),
    )
    assert (second.image, second.texts) == (b"own", ())
    searches = [{"item_id": "8", "query_text": "boots", "query_image": None}]
    (query,) = next(iter(iter_queries(open_table(write_table(tmp_path / "s.parquet", searches), SEARCHES))))
    assert query.texts == ((Aspect.TITLE, "boots"),)


def test_raw_products_give_the_features_of_the_cached_way(towers: Towers, tmp_path: Path) -> None:
    some = products(8)
    some[1] = Product("p1", b"no picture", some[1].texts)
    preparer = RawPixels(tmp_path, regions=False)
    raw = preparer.table([some[:3]], [some[3:]])
    assert preparer.broken.examples == [("p1", "does not decode")]
    assert not list(tmp_path.iterdir())  # the pixels go with the process, and are in nobody's run folder
    rows = np.array([7, 1, 2, 0, 3])
    with torch.inference_mode():
        live = run_towers(towers, raw.gather(rows))
    cached = featurizer(towers, None).table([some]).gather(rows)
    assert live.has_image_B.tolist() == cached.has_image_B.tolist()
    assert torch.equal(live.text_mask_BT, cached.text_mask_BT)
    assert torch.equal(live.aspect_BT, cached.aspect_BT)
    for found, expected in ((live.image_BGC, cached.image_BGC), (live.text_BTC, cached.text_BTC)):
        assert float((found - expected.float()).abs().mean()) < 0.02
