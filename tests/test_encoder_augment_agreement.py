"""A picture of another item is told from one of its own; parts of an unfinished run are kept."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from augment_colours import COLOURS, ColourEncoder, plain_picture
from encoder_helpers import CPU, Shop, picture
from mllm_case import encoder_of
from PIL import Image

from encoders.augment.agreement import Agreement, sample_of
from encoders.augment.augmented_parts import AugmentedItem, AugmentedParts
from encoders.augment.counts import Counts
from encoders.augment.image_variants import Variant
from encoders.augment.judged_images import ImageMaker
from encoders.compact import CompactConfig, CompactEncoder
from encoders.dual import DualEncoder
from encoders.encoder import Encoder
from encoders.encoding import encode
from encoders.products import Aspect, Product
from moonrec.errors import UserError
from moonrec.images import decode_image
from moonrec.tables import ITEMS, open_table

pytest_plugins = ["encoder_fixtures"]


@pytest.fixture(scope="module")
def untrained(shop: Shop) -> Agreement:
    encoder = CompactEncoder(CompactConfig(regions=False)).eval()
    return Agreement(encoder, CPU, sample_of(open_table(shop.items, ITEMS)), 0.95, calibrate=True)


@pytest.fixture(scope="module")
def products(shop: Shop) -> list[Product]:
    pictured = [one for one in sample_of(open_table(shop.items, ITEMS)) if one.image is not None]
    return pictured[:24]


def brighter(product: Product) -> bytes:
    stream = io.BytesIO()
    image = decode_image(product.image or b"").rotate(4, fillcolor="white")
    image.point([min(255, round(value * 1.1)) for value in range(256)] * 3).save(stream, "JPEG")
    return stream.getvalue()


def test_a_changed_own_picture_stands_and_anothers_does_not(
    untrained: Agreement, products: list[Product]
) -> None:
    assert untrained.to_dict()["anchor"] == "picture"
    others = [products[row - 7].image or b"" for row in range(len(products))]
    judged = untrained.judge(
        products, [[brighter(one), other] for one, other in zip(products, others, strict=True)]
    )
    own, wrong = np.array([one.stand for one in judged]).T
    assert own.mean() > 0.9
    assert wrong.mean() < 0.15


def test_an_item_without_a_usable_picture_gets_none(untrained: Agreement) -> None:
    blank = Product("a", None, ((Aspect.TITLE, "mug"),))
    broken = Product("b", b"nothing", ((Aspect.TITLE, "mug"),))
    whole = Product("c", picture(0), ((Aspect.TITLE, "mug"),))
    found = untrained.judge([blank, broken, whole], [[picture(1)], [picture(1)], [b"nothing", picture(0)]])
    assert [one.own is None for one in found] == [True, True, False]
    assert [one.stand for one in found] == [(False,), (False,), (False, True)]


def test_titles_are_the_anchor_of_an_encoder_that_knows_pictures_by_them() -> None:
    names = list(COLOURS)
    told = [
        Product(f"{name} {n}", plain_picture(name), ((Aspect.TITLE, f"{name} mug no {n}"),))
        for n in range(4)
        for name in names
    ]
    agreement = Agreement(ColourEncoder().eval(), CPU, told, 0.9)
    assert agreement.to_dict() == {"anchor": "title", "title_accuracy": 1.0, "sample": 16, "minimum": 0.9}
    found = agreement.judge(
        told[:4], [[plain_picture(name), plain_picture(names[-1 - at])] for at, name in enumerate(names)]
    )
    assert [one.stand for one in found] == [(True, False)] * 4
    # A picture need not fit its title better than the item's own one does.
    odd = Product("odd", plain_picture("blue"), ((Aspect.TITLE, "red mug"),))
    assert agreement.judge([odd], [[plain_picture("blue"), plain_picture("yellow")]])[0].stand == (True, True)
    # Without a title the own picture is the anchor.
    untitled = Product("untitled", plain_picture("blue"), ())
    assert agreement.judge([untitled], [[plain_picture("blue"), plain_picture("red")]])[0].stand == (
        True,
        False,
    )


class Swapped:
    """Gives every item the same picture of something else, and nothing to items without one."""

    name = "swapped"

    def fingerprint(self) -> str:
        return self.name

    def variants(self, product: Product, count: int, rng: np.random.Generator) -> list[Variant]:
        image = Image.fromarray(np.full((64, 64, 3), 250, np.uint8))
        return [Variant(image, "swapped")] * count if product.image is not None else []


def test_all_variants_of_an_item_may_be_dropped(untrained: Agreement, products: list[Product]) -> None:
    counts = Counts()
    strict = products[:8]
    made = ImageMaker(Swapped(), untrained, 2, 0).make(strict, counts)
    stand = sum(one.stands for images in made for one in images.made)
    assert counts.dropped["swapped"] + counts.images["swapped"] == 16
    assert counts.images["swapped"] == stand
    assert (
        counts.items["all dropped"] == sum(not any(one.stands for one in images.made) for images in made) > 4
    )


def test_one_item_alone_has_nobody_to_be_held_against() -> None:
    encoder = CompactEncoder(CompactConfig(regions=False)).eval()
    alone = [Product("a", picture(0), ((Aspect.TITLE, "mug"),))]
    agreement = Agreement(encoder, CPU, alone, 0.95, calibrate=True)
    assert agreement.to_dict()["title_accuracy"] is None
    assert agreement.judge(alone, [[picture(1)]])[0].stand == (True,)


LONG = " ".join(f"word{n}" for n in range(5_000))


@pytest.mark.parametrize(
    "make",
    [
        lambda: CompactEncoder(CompactConfig(regions=False)).eval(),
        lambda: encoder_of(),
        lambda: DualEncoder.tiny(["mug word"] * 8),
    ],
    ids=["compact", "mllm", "dual"],
)
def test_every_reader_cuts_a_title_that_is_too_long(make: object) -> None:
    assert callable(make)
    encoder: Encoder = make()
    titles: Sequence[str] = [LONG, "x" * 50_000, "红" * 5_000]
    batch = [Product(str(n), None, ((Aspect.TITLE, title),)) for n, title in enumerate(titles)]
    vectors, empty = encode(encoder, encoder.preparer(None, CPU).table([batch]), device=CPU)
    assert np.isfinite(vectors).all()
    assert not empty.any()


def test_finished_parts_of_the_same_identity_are_kept(tmp_path: Path) -> None:
    parts = AugmentedParts(tmp_path / "out.parquet", rows=5, part_rows=2)
    counts = Counts()
    counts.titles["rules"] += 2
    counts.broken.add("a", "no bytes")
    made = [AugmentedItem("red mug", "rules", [(b"1", "light")]), AugmentedItem(None, "kept: x", [])]
    with suppress(InterruptedError), parts.open("one"):
        parts.write(range(0, 2), made, counts)
        parts.write(range(2, 4), made, counts)
        raise InterruptedError
    (parts.folder / "000001.arrow").write_bytes(b"ARROW1 cut off")
    with suppress(InterruptedError), parts.open("one"):
        assert parts.missing() == [range(2, 4), range(4, 5)]
        batch, read = parts.read(0)
        assert batch["title_enriched"].to_pylist() == ["red mug", None]
        assert batch["images_augmented"].to_pylist() == [[{"bytes": b"1", "path": None}], []]
        assert read == counts
        raise InterruptedError
    with parts.open("another"):
        assert len(parts.missing()) == 3
    assert not parts.folder.exists()


def test_somebody_elses_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out.parquet.partial").mkdir()
    (tmp_path / "out.parquet.partial" / "mine").touch()
    with (
        pytest.raises(UserError, match=r"is in the way"),
        AugmentedParts(tmp_path / "out.parquet", rows=5, part_rows=2).open("one"),
    ):
        pass
    assert (tmp_path / "out.parquet.partial" / "mine").exists()
