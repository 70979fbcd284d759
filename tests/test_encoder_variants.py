"""Variants of items: which there are, what they show, how often they are drawn, and what they leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoder_helpers import CPU, busy_encoder, picture
from hypothesis import given
from hypothesis import strategies as st

from encoders.compact import CompactConfig, CompactEncoder
from encoders.encoding import encode
from encoders.look import Look
from encoders.modality_mix import Contents
from encoders.products import Product, iter_items
from encoders.regions import ground_regions, open_regions
from encoders.regions.store import RegionStore
from encoders.towers import MAX_TEXT_TOKENS
from encoders.training_data import Products, load_products, open_tables
from encoders.variants import VariantReader, Variants
from moonrec.table_spec import IMAGE_TYPE, IMAGES_TYPE
from moonrec.tables import ITEMS, Table, open_table

# Of each item its title, its picture, its enriched title, its augmented pictures: seeds of `picture`.
CATALOGUE: list[tuple[str | None, Any, str | None, list[Any] | None]] = [
    ("red mug", 0, "red mug of stoneware", [10, 11]),
    ("blue bowl", 1, None, [12]),
    ("green plate", 2, "green plate", []),
    ("old jug", 3, "old jug for water", None),
    (None, 4, "white vase", None),
    ("tin box", None, "round tin box", [13]),
]
QUERIES = ["mug", "vase for flowers"]
COLUMNS = ("title_enriched", "images_augmented")


def cell(image: Any) -> dict[str, Any] | None:
    if image is None:
        return None
    return {"bytes": picture(image) if isinstance(image, int) else image, "path": None}


def write(folder: Path, rows: list[tuple[Any, ...]], name: str = "items") -> Table:
    titles, images, enriched, augmented = zip(*rows, strict=True)
    pictures = [None if one is None else [*map(cell, one)] for one in augmented]
    columns = {
        "item_id": pa.array([f"i{n}" for n in range(len(rows))]),
        "title": pa.array(titles, pa.string()),
        "image": pa.array([cell(image) for image in images], IMAGE_TYPE),
        "category": pa.array(["Home > Kitchen"] * len(rows)),
        "product_id": pa.array([f"p{n // 2}" for n in range(len(rows))]),
        "title_enriched": pa.array(enriched, pa.string()),
        "images_augmented": pa.array(pictures, IMAGES_TYPE),
    }
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return open_table(folder / f"{name}.parquet", ITEMS)


def loaded(folder: Path, items: Table, *, augmented: bool = True) -> Products:
    pq.write_table(pa.table({"item_id": ["i0", "i4"], "query_text": QUERIES}), folder / "searches.parquet")
    searches = open_tables(searches=str(folder / "searches.parquet"))["searches"]
    encoder = busy_encoder()
    return load_products(
        items, searches, encoder, look=Look(encoder, CPU, None), device=CPU, cache=None, folder=folder,
        augmented=augmented,
    )  # fmt: skip


def bits(products: Products, rows: np.ndarray) -> list[np.ndarray]:
    return [value.numpy() for value in vars(products.table.gather(rows)).values()]


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Products:
    folder = tmp_path_factory.mktemp("variants")
    return loaded(folder, write(folder, CATALOGUE))


def test_variants_stand_behind_the_queries_and_belong_to_their_items(products: Products) -> None:
    assert products.variants.first == len(CATALOGUE) + len(QUERIES)
    assert products.variants.owner_V.tolist() == [0, 0, 0, 1, 3, 4, 5, 5]
    assert len(products.table) == len(products.query_R) == products.variants.first + 8
    assert products.variants.counts() == {"titles": 4, "images": 4, "items": 5}
    own = products.query_R[products.variants.owner_V]
    assert products.query_R[products.variants.first :].tolist() == own.tolist()
    assert products.name(products.variants.first + 3) == "item 'i1', augmented"
    assert products.name(len(CATALOGUE) + 1) == "search row 1"


def test_what_counts_rows_of_items_and_queries_does_not_see_variants(tmp_path: Path) -> None:
    items = write(tmp_path, CATALOGUE)
    products = loaded(tmp_path, items)
    assert len(products.usable()) == len(CATALOGUE) + len(QUERIES)
    has_title = Contents.of(products.table.has_image(), products.table.has_text(), items).has_title
    assert has_title[: len(CATALOGUE)].tolist() == [title is not None for title, *_ in CATALOGUE]


def test_a_variant_shows_the_enriched_title_the_augmented_picture_or_both(
    products: Products, tmp_path: Path
) -> None:
    rows = [
        ("red mug of stoneware", 0), ("red mug of stoneware", 10), ("red mug of stoneware", 11),
        ("blue bowl", 12), ("old jug for water", 3), ("white vase", 4), ("round tin box", None),
        ("round tin box", 13),
    ]  # fmt: skip
    expected = loaded(tmp_path, write(tmp_path, [(*row, None, None) for row in rows]))
    variants = products.variants.first + np.arange(len(rows))
    encoder = busy_encoder()
    found_NE, _ = encode(encoder, products.table, device=CPU, rows=variants)
    expected_NE, _ = encode(encoder, expected.table, device=CPU, rows=np.arange(len(rows)))
    assert ((found_NE * expected_NE).sum(1) > 0.999).all()
    assert ((found_NE @ expected_NE.T).argmax(1) == np.arange(len(rows))).all()


def test_catalogue_and_queries_are_the_same_bits_with_and_without_variants(
    products: Products, tmp_path: Path
) -> None:
    kept = pq.read_table(write(tmp_path, CATALOGUE).path).drop_columns(list(COLUMNS))
    plain = tmp_path / "plain.parquet"
    pq.write_table(kept, plain)
    originals = np.arange(len(CATALOGUE) + len(QUERIES))
    for other in (
        loaded(tmp_path, open_table(tmp_path / "items.parquet", ITEMS), augmented=False),
        loaded(tmp_path, open_table(plain, ITEMS)),
    ):
        assert len(other.table) == len(originals)
        assert other.query_R.tolist() == products.query_R[originals].tolist()
        for mine, its in zip(bits(other, originals), bits(products, originals), strict=True):
            assert np.array_equal(mine, its)
        assert other.variants.draw(originals, np.random.default_rng(0)).tolist() == originals.tolist()
        assert other.variants.counts() == {"titles": 0, "images": 0, "items": 0}


def test_pictures_that_do_not_decode_are_counted_once_and_never_drawn(tmp_path: Path) -> None:
    rows = [
        ("red mug", 0, "red mug of stoneware", [b"no picture", 10]),
        ("blue bowl", b"broken", "blue bowl of glass", None),
        ("tin box", 1, None, [b""]),
    ]
    products = loaded(tmp_path, write(tmp_path, rows))
    assert products.broken.count == 3
    named = [key for key, _ in products.broken.examples]
    assert named == ["i1", "i0, images_augmented[0]", "i2, images_augmented[0]"]
    assert products.variants.counts() == {"titles": 2, "images": 1, "items": 2}
    rng = np.random.default_rng(0)
    drawn = np.unique(products.variants.draw(np.repeat(np.arange(3), 200), rng))
    has_image = products.table.has_image()
    assert has_image[drawn].tolist() == [True, False, True, True, True, False]
    assert products.variants.owner_V[drawn[3:] - products.variants.first].tolist() == [0, 0, 1]


def test_a_generated_title_beyond_the_towers_limit_is_cut(tmp_path: Path) -> None:
    title = " ".join(f"word{n}" for n in range(4_000))
    products = loaded(tmp_path, write(tmp_path, [("red mug", 0, title, [10]), ("blue bowl", 1, None, None)]))
    variants = products.variants.first + np.arange(2)
    assert (products.table.lengths()[variants] <= MAX_TEXT_TOKENS).all()
    vectors_NE, empty = encode(busy_encoder(), products.table, device=CPU, rows=variants)
    assert np.isfinite(vectors_NE).all()
    assert not empty.any()


@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    queries=st.integers(0, 3),
    unusable=st.integers(0, 2**24 - 1),
    seed=st.integers(0, 9),
)
def test_an_item_becomes_itself_or_one_of_its_own_usable_variants(
    counts: list[int], queries: int, unusable: int, seed: int
) -> None:
    owner_V = np.repeat(np.arange(len(counts)), counts)
    usable_V = (unusable >> np.arange(len(owner_V))) & 1 == 0
    first = len(counts) + queries
    variants = Variants(len(counts), first, owner_V, np.zeros(len(owner_V), bool), usable_V)
    rows = np.arange(first + len(owner_V)).repeat(20)
    drawn = variants.draw(rows, np.random.default_rng(seed))
    changed = drawn != rows
    assert (rows[changed] < len(counts)).all()
    assert (owner_V[drawn[changed] - first] == rows[changed]).all()
    assert usable_V[drawn[changed] - first].all()


def test_half_the_items_stay_and_the_others_are_shown_evenly_by_their_variants(products: Products) -> None:
    draws, first = 30_000, products.variants.first
    drawn = products.variants.draw(np.zeros((3, draws // 3), np.int64), np.random.default_rng(0))
    share = np.bincount(drawn.ravel(), minlength=len(products.table)) / draws
    assert share[0] == pytest.approx(1 / 2, abs=0.02)
    assert share[first : first + 3] == pytest.approx(np.full(3, 1 / 6), abs=0.02)
    assert share.sum() == pytest.approx(share[0] + share[first : first + 3].sum())


def attached(reader: VariantReader, encoder: CompactEncoder) -> list[Product]:
    return [product for batch in reader.batches(Look(encoder, CPU, None)) for product in batch]


def test_regions_of_variants_are_kept_by_picture_and_those_of_own_pictures_found_again(
    tmp_path: Path,
) -> None:
    items, encoder = write(tmp_path, CATALOGUE), CompactEncoder(CompactConfig(dims=(32,), width=32))
    own = [one for batch in Look(encoder, CPU, None)(items, iter_items(items)) for one in batch]
    shown = attached(VariantReader(items), encoder)
    assert shown[0].region == own[0].region
    assert shown[4].region == own[3].region
    regions = open_regions(items.path, CPU, None)
    again = [one for batch in regions.attach([shown]) for one in batch]
    assert regions.counts.computed == 0
    assert [one.region for one in again] == [one.region for one in shown]
    assert regions.path is not None
    boxes = RegionStore(Path(regions.path), regions._detector.fingerprint(), write=False)
    assert len(boxes) == len({one.image for one in [*own, *shown]} - {None})


class Says:
    """A model that grounds every title in the same box."""

    box_scale = "thousand"

    def seen_size(self, width: int, height: int) -> tuple[int, int]:
        return width, height

    def generate(self, images: Any, prompts: Any, max_new_tokens: int = 64) -> list[str]:
        return ['[{"bbox_2d": [100, 200, 600, 700]}]' for _ in zip(images, prompts, strict=True)]

    def fingerprint(self) -> str:
        return "says"


def test_the_box_that_a_title_was_grounded_in_stays_under_its_enriched_title(tmp_path: Path) -> None:
    items = write(tmp_path, CATALOGUE)
    grounded = ground_regions(items.path, Says(), None)
    boxes = [one.region for batch in grounded.attach(iter_items(items)) for one in batch]
    shown = attached(VariantReader(items), CompactEncoder(CompactConfig(dims=(32,), width=32)))
    assert boxes[0] == pytest.approx((0.1, 0.2, 0.6, 0.7), abs=0.02)
    assert shown[0].region == boxes[0]
    assert dict(shown[0].texts) != dict(next(iter_items(items))[0].texts)
