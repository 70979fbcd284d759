"""Raw products: what goes into the spool comes out, broken pictures are counted once, batches come ahead."""

from __future__ import annotations

import errno
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from encoders.products import EVERYTHING, IMAGE_ONLY, TITLE_ONLY, Aspect, BrokenImages, Product, View
from encoders.raw_products import (
    RawPreparer,
    RawProducts,
    ahead,
    decode_all,
    decode_views,
    prefetch,
    regroup,
    shown,
)
from moonrec.errors import UserError
from moonrec.images import BrokenImage


def png(size: tuple[int, int] = (8, 6), colour: tuple[int, int, int] = (200, 10, 10)) -> bytes:
    return encoded(Image.new("RGB", size, colour), "PNG")


def encoded(picture: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form)
    return stream.getvalue()


@dataclass(frozen=True)
class ListBatch:
    """Products as they are: the least that a batch can be."""

    products: tuple[Product, ...]

    def __len__(self) -> int:
        return len(self.products)

    def to(self, device: torch.device | str) -> Self:
        del device
        return self

    def is_empty_B(self) -> Tensor:
        return torch.tensor([product.image is None and not product.texts for product in self.products])


def collate(products: list[Product], view: View) -> ListBatch:
    return ListBatch(tuple(shown(product, view) for product in products))


TITLE = ((Aspect.TITLE, "rote Schuhe"),)
texts = st.lists(st.tuples(st.sampled_from([a for a in Aspect if a != Aspect.IMAGE]), st.text(min_size=1)))
regions = st.none() | st.tuples(*[st.floats(0, 1)] * 4)
product = st.builds(
    Product,
    key=st.text(),
    image=st.sampled_from([None, png(), png((3, 3), (0, 90, 7))]),
    texts=texts.map(tuple),
    region=regions,
)


@given(st.lists(st.lists(product, max_size=4), max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_what_goes_in_comes_out_by_row(batches: list[list[Product]], random: Any) -> None:
    everything = [product for batch in batches for product in batch]
    raw = RawProducts.build(batches, BrokenImages())
    rows = list(range(len(everything))) * 2
    random.shuffle(rows)
    assert len(raw) == len(everything)
    assert raw.products(np.array(rows, int)) == [everything[row] for row in rows]
    assert raw.has_image().tolist() == [p.image is not None for p in everything]
    assert raw.has_text().tolist() == [bool(p.texts) for p in everything]
    assert raw.text_characters().tolist() == [sum(len(text) for _, text in p.texts) for p in everything]


def broken_products() -> list[Product]:
    half = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")[:900]
    return [
        Product("fine", png(), TITLE),
        Product("not a picture", b"GIF89a nonsense", TITLE),
        Product("missing", None, TITLE, broken="no file 'a.png'"),
        Product("no picture", None, TITLE),
        Product("cut short", half, ()),
    ]


@pytest.mark.parametrize("stored", ["spooled", "in memory"])
def test_broken_pictures_are_counted_once_and_hidden(stored: str) -> None:
    broken = BrokenImages()
    if stored == "spooled":
        raw = RawProducts.build([broken_products()[:2], broken_products()[2:]], broken)
    else:
        raw = RawProducts.in_memory(broken_products(), broken)
    for _ in range(3):
        found = raw.products(np.arange(5))
    assert broken.count == 3
    assert [key for key, _ in broken.examples] == ["not a picture", "missing", "cut short"]
    assert raw.has_image().tolist() == [True, False, False, False, False]
    assert [p.image is None for p in found] == [False, True, True, True, True]
    assert [p.texts for p in found] == [p.texts for p in broken_products()]
    assert dict(broken.examples)["missing"] == "no file 'a.png'"


def test_many_threads_read_what_one_reads() -> None:
    everything = [Product(f"p{i}", png((4, 4), (i % 256, i // 256, 0)), TITLE) for i in range(300)]
    raw = RawProducts.build([everything], BrokenImages())
    parts = [np.random.default_rng(seed).integers(0, 300, 200) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for rows, found in zip(parts, pool.map(raw.products, parts), strict=True):
            assert found == [everything[row] for row in rows]


def test_the_spool_leaves_no_file_behind(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "for it"
    raw = RawProducts.build([[Product("a", png(), TITLE)]], BrokenImages(), folder)
    assert list(folder.iterdir()) == []
    assert raw.products(np.array([0]))[0].image == png()


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = ([Product(f"p{i}", png(), ((Aspect.TITLE, "x" * 4096),))] for i in range(10))
    with open("/dev/full", "wb") as full:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: full)
        with pytest.raises(UserError, match=r"cannot be written \(no space left on device\)"):
            RawProducts.build(batches, BrokenImages(), tmp_path)
        monkeypatch.undo()
        with suppress(OSError):  # closing it writes what is buffered once more
            full.close()


def test_errors_of_the_source_are_not_blamed_on_the_spool(tmp_path: Path) -> None:
    def batches() -> Iterator[list[Product]]:
        yield [Product("a", None, TITLE)]
        raise OSError(errno.ENOSPC, "elsewhere")

    with pytest.raises(OSError, match="elsewhere"):
        RawProducts.build(batches(), BrokenImages(), tmp_path)


def test_a_table_shows_only_its_view_and_knows_its_lengths() -> None:
    table = RawPreparer(collate, image_tokens=9).table([broken_products()])
    both = ((Aspect.TITLE, "abcd" * 10), (Aspect.CATEGORY, "shoes"))
    rich = RawPreparer(collate, image_tokens=9).table([[Product("rich", png(), both)]])
    assert rich.lengths().tolist() == [9 + 45 // 4]
    assert table.lengths().tolist() == [11, 2, 2, 2, 0]
    titles = rich.gather(np.array([0]), TITLE_ONLY)
    assert isinstance(titles, ListBatch)
    assert titles.products[0].image is None
    assert titles.products[0].texts == both[:1]
    assert table.gather(np.arange(5)).is_empty_B().tolist() == [False] * 4 + [True]
    assert table.gather(np.arange(5), IMAGE_ONLY).is_empty_B().tolist() == [False, True, True, True, True]


def test_shards_are_the_table_cut_in_pieces_and_read_no_further_than_needed() -> None:
    everything = [Product(f"p{i}", png() if i % 3 else b"x", TITLE) for i in range(1000)]
    read = 0

    def batches() -> Iterator[list[Product]]:
        nonlocal read
        for start in range(0, 1000, 100):
            read += 100
            yield everything[start : start + 100]

    preparer = RawPreparer(collate)
    shards = preparer.shards(batches())
    keys, first = next(shards)
    assert read <= 700  # one shard out, one in the making
    sizes, products = [len(first)], list(first.gather(np.arange(len(first))).products)  # type: ignore[attr-defined]
    for more, table in shards:
        keys += more
        sizes.append(len(table))
        products += table.gather(np.arange(len(table))).products  # type: ignore[attr-defined]
    assert sizes == [256, 256, 256, 232]
    assert keys == [p.key for p in everything]
    assert [p.image is None for p in products] == [i % 3 == 0 for i in range(1000)]
    assert preparer.broken.count == 334


@given(st.lists(st.integers(0, 7), max_size=9), st.integers(1, 8))
def test_regrouping_keeps_every_product_in_order(sizes: list[int], size: int) -> None:
    numbers = iter(range(1000))
    batches = [[Product(str(next(numbers)), None, ()) for _ in range(count)] for count in sizes]
    groups = list(regroup(batches, size))
    assert [p for group in groups for p in group] == [p for batch in batches for p in batch]
    assert all(len(group) == size for group in groups[:-1])
    assert all(0 < len(group) <= size for group in groups)


def test_prefetch_gives_the_batches_of_the_table_in_order() -> None:
    everything = [Product(f"p{i}", None, TITLE) for i in range(40)]
    table = RawPreparer(collate).table([everything])
    parts = np.array_split(np.random.default_rng(0).permutation(40), 7)
    batches = list(prefetch(table, parts, TITLE_ONLY))
    expected = [[f"p{row}" for row in part] for part in parts]
    assert [[p.key for p in batch.products] for batch in batches] == expected  # type: ignore[attr-defined]
    assert list(prefetch(table, [])) == []


def test_the_next_result_is_made_while_the_caller_works() -> None:
    made = [threading.Event() for _ in range(4)]

    def make(number: int) -> int:
        made[number].set()
        return number

    for number in ahead(make, range(4)):
        if number < 3:
            assert made[number + 1].wait(10)
        assert not any(event.is_set() for event in made[number + 2 :])


def test_an_exception_comes_where_its_result_would_have_come() -> None:
    def make(number: int) -> float:
        return 1 / (number - 2)

    results = ahead(make, range(5))
    assert [next(results), next(results)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_a_caller_that_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    for number in ahead(abs, iter(range(10**9))):
        if number == 3:
            break
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def gradient(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


def test_the_core_region_is_cut_out_of_the_upright_picture() -> None:
    whole, crop = decode_views(
        Product("a", encoded(gradient(200, 100), "PNG"), (), region=(0.5, 0.2, 0.75, 0.6)), 224
    )
    assert whole.size == (200, 100)
    assert crop.size == (50, 40)
    assert np.array_equal(np.asarray(crop), np.asarray(whole)[20:60, 100:150])


def test_a_large_jpeg_is_decoded_small_but_its_region_stays_sharp() -> None:
    data = encoded(gradient(1600, 1600), "JPEG")
    (whole,) = decode_views(Product("a", data, ()), 100)
    assert whole.size == (200, 200)
    region = (0.4, 0.4, 0.6, 0.6)
    (only,) = decode_views(Product("a", data, (), region=region), 100, regions=False)
    assert only.size == (200, 200)
    _, crop = decode_views(Product("a", data, (), region=region), (80, 100))
    assert min(crop.size) >= 200


@given(st.tuples(*[st.floats(0, 1)] * 4), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_any_region_gives_a_picture_inside_the_whole(
    region: tuple[float, float, float, float], width: int, height: int
) -> None:
    whole, crop = decode_views(Product("a", png((width, height)), (), region=region), 16)
    assert 1 <= crop.width <= whole.width
    assert 1 <= crop.height <= whole.height


def test_views_of_many_products_are_those_of_each() -> None:
    products = [Product("a", png(), ()), Product("b", None, ()), Product("c", png(), (), region=(0, 0, 1, 1))]
    assert [len(pictures) for pictures in decode_all(products, 8)] == [1, 0, 2]
    assert [len(pictures) for pictures in decode_all(products, 8, regions=False)] == [1, 0, 1]
    with pytest.raises(BrokenImage):
        decode_all([*products, Product("d", b"x", ())], 8)


def test_nothing_is_hidden_from_the_view_of_everything() -> None:
    for item in broken_products():
        assert shown(item, EVERYTHING) == item
