"""Pictures made from a product's own: the product stays, sizes are bounded, odd files make none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from encoder_helpers import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from encoders.augment.backgrounds import draw_ground
from encoders.augment.cutout import boxed, cut_out
from encoders.augment.image_variants import drawn_kinds
from encoders.augment.images_local import (
    KINDS,
    LocalImages,
    detail,
    from_another_side,
    in_other_light,
    on_new_ground,
)
from encoders.products import Product
from encoders.regions.boxes import Box
from moonrec.simulation.catalogue import draw_catalogue
from moonrec.simulation.photos import look_of, take_photo
from moonrec.simulation.scenes import main_view

MIDDLE: Box = (0.25, 0.25, 0.75, 0.75)


def product_of(image: Image.Image | bytes | None, region: Box | None = None) -> Product:
    if isinstance(image, Image.Image):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        image = stream.getvalue()
    return Product("a", image, (), region=region)


def disc(size: int = 200, colour: tuple[int, int, int] = (200, 30, 40)) -> tuple[Image.Image, np.ndarray]:
    """A disc on uneven grey, and the pixels well inside of it."""
    grey = np.random.default_rng(0).integers(170, 200, (size, size, 1), np.uint8)
    image = Image.fromarray(np.repeat(grey, 3, 2))
    ImageDraw.Draw(image).ellipse([size * 0.27, size * 0.27, size * 0.73, size * 0.73], fill=colour)
    place = (np.arange(size) + 0.5) / size - 0.5
    return image, np.hypot(place[:, None], place) < 0.2


@pytest.mark.parametrize(("region", "reach"), [(MIDDLE, 0.28), (None, 0.42)])
def test_a_cut_out_is_the_product_and_not_what_is_around_it(region: Box | None, reach: float) -> None:
    image, inside_HW = disc()
    mask_HW = cut_out(image, region)
    assert mask_HW is not None
    assert mask_HW[inside_HW].min() > 0.99
    place = (np.arange(200) + 0.5) / 200 - 0.5
    assert mask_HW[np.hypot(place[:, None], place) > reach].max() < 0.02


def test_a_hole_in_the_product_is_kept_with_it() -> None:
    image, inside_HW = disc()
    background = image.getpixel((5, 5))
    assert isinstance(background, tuple)
    ImageDraw.Draw(image).ellipse([90, 90, 110, 110], fill=background)
    mask_HW = cut_out(image, MIDDLE)
    assert mask_HW is not None
    assert mask_HW[inside_HW].min() > 0.99


def test_colours_that_say_nothing_leave_the_widened_box() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (120, 120, 3), np.uint8))
    image = Image.new("RGB", (120, 120), "white")
    ImageDraw.Draw(image).point([(60, 60)], fill="black")
    for without_evidence in (noise, image):
        mask_HW, box_HW = cut_out(without_evidence, MIDDLE), boxed((120, 120), MIDDLE)
        assert mask_HW is not None
        assert box_HW is not None
        assert mask_HW[40:80, 40:80].mean() > 0.95
        assert mask_HW[~(box_HW > 0)].max() == 0


def test_the_products_of_simulated_photos_survive_on_new_ground() -> None:
    rng = np.random.default_rng(0)
    catalogue = draw_catalogue(30, 0)
    kept = []
    for item in range(30):
        camera, scene = main_view(rng, cluttered=item % 2 == 0)
        photo = take_photo(look_of(catalogue, item), camera, scene, rng, 128)
        with Image.open(io.BytesIO(photo.jpeg)) as image:
            old = image.convert("RGB")
        mask_HW = cut_out(old, photo.box)
        assert mask_HW is not None
        new = np.asarray(on_new_ground(old, mask_HW, rng), np.int16)
        x0, y0, x1, y1 = (round(128 * edge) for edge in photo.box)
        # The middle of the box is product in nearly all of these silhouettes.
        rows = slice((2 * y0 + y1) // 3, (y0 + 2 * y1) // 3)
        columns = slice((2 * x0 + x1) // 3, (x0 + 2 * x1) // 3)
        same_HW = np.abs(new - np.asarray(old, np.int16)).max(2) < 8
        kept.append(same_HW[rows, columns].mean())
        outside_HW = np.ones((128, 128), bool)
        outside_HW[max(0, y0 - 16) : y1 + 16, max(0, x0 - 16) : x1 + 16] = False
        if outside_HW.any():
            assert mask_HW[outside_HW].max() < 0.05
    assert np.mean(kept) > 0.93


def test_the_core_region_stays_in_the_frame_from_another_side() -> None:
    image = Image.new("RGB", (240, 160), "white")
    marks = [(50, 40), (186, 40), (50, 116), (186, 116)]
    for x, y in marks:
        ImageDraw.Draw(image).rectangle([x, y, x + 3, y + 3], fill="black")
    region = (50 / 240, 40 / 160, 190 / 240, 120 / 160)
    rng = np.random.default_rng(0)
    for _ in range(50):
        moved = from_another_side(image, region, rng)
        dark_HW = np.asarray(moved.convert("L")) < 160
        for rows in (slice(0, 80), slice(80, 160)):
            for columns in (slice(0, 120), slice(120, 240)):
                assert dark_HW[rows, columns].any()
        assert moved.size == image.size


def test_a_detail_is_a_part_of_the_core_region() -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = np.arange(300)[:, None] // 2, np.arange(400) // 2
    image, rng = Image.fromarray(pixels), np.random.default_rng(0)
    for _ in range(50):
        part = np.asarray(detail(image, (0.2, 0.3, 0.6, 0.9), rng))
        assert 90 // 2 <= part[:, :, 0].min() <= part[:, :, 0].max() <= 270 // 2
        assert 80 // 2 <= part[:, :, 1].min() <= part[:, :, 1].max() <= 240 // 2
        assert 0.44 <= part.shape[0] / 180 <= 0.76


def test_other_light_keeps_what_is_brighter_brighter_and_a_colour_its_hue() -> None:
    ramp = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2))
    red, rng = Image.new("RGB", (4, 4), (200, 40, 40)), np.random.default_rng(0)
    for _ in range(50):
        levels = np.asarray(in_other_light(ramp, rng), np.int16)
        assert (np.diff(levels, axis=1) >= 0).all()
        colour = np.asarray(in_other_light(red, rng), np.int16)[0, 0]
        assert colour[0] > 2 * max(colour[1:]) or colour[0] - max(colour[1:]) > 60


def test_grounds_have_the_size_of_the_picture_and_differ() -> None:
    image, _ = disc(64)
    rng = np.random.default_rng(0)
    grounds = [draw_ground(image, np.zeros((64, 64), np.float32), rng) for _ in range(20)]
    assert all(ground.size == (64, 64) and ground.mode == "RGB" for ground in grounds)
    assert len({ground.tobytes() for ground in grounds}) == 20


def test_a_ground_from_the_surroundings_does_not_show_the_product() -> None:
    image, _ = disc()
    mask_HW = cut_out(image, MIDDLE)
    assert mask_HW is not None
    rng = np.random.default_rng(0)
    for _ in range(40):
        ground = np.asarray(draw_ground(image, mask_HW, rng), np.int16)
        assert not ((ground[:, :, 0] - ground[:, :, 1:].max(2)) > 120).any()


def test_kinds_differ_before_one_comes_again() -> None:
    image, _ = disc()
    for seed in range(5):
        made = LocalImages().variants(product_of(image, MIDDLE), 8, np.random.default_rng(seed))
        assert {one.source for one in made[:4]} == set(KINDS) == {one.source for one in made[4:]}
    drawn = drawn_kinds("abcd", np.random.default_rng(0))
    assert len({"".join(next(drawn) for _ in range(4)) for _ in range(30)}) > 5


def test_the_same_seed_gives_the_same_pixels_and_another_one_others() -> None:
    product = product_of(disc()[0], MIDDLE)
    first, again, other = (
        [(one.source, one.image.tobytes()) for one in LocalImages(64).variants(product, 6, rng)]
        for rng in map(np.random.default_rng, (3, 3, 4))
    )
    assert first == again
    assert not set(first) & set(other)


@pytest.mark.parametrize("data", [None, b"", b"not a picture", picture(0)[:60]])
def test_without_a_usable_picture_there_are_none(data: bytes | None) -> None:
    assert LocalImages().variants(product_of(data), 3, np.random.default_rng(0)) == []


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (4000, 20)])
def test_of_dots_and_lines_there_are_none(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    assert LocalImages().variants(product_of(Image.fromarray(noise)), 3, np.random.default_rng(0)) == []


def test_of_a_picture_in_one_colour_there_are_none() -> None:
    plain = product_of(Image.new("RGB", (80, 80), "navy"), MIDDLE)
    assert LocalImages().variants(plain, 3, np.random.default_rng(0)) == []


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK", "1"])
def test_every_mode_of_picture_becomes_rgb(mode: str) -> None:
    image, stream = disc(100)[0], io.BytesIO()
    image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257) if mode == "I;16" else image
    (image if mode == "I;16" else image.convert(mode)).save(stream, "TIFF" if mode == "CMYK" else "PNG")
    made = LocalImages(64).variants(product_of(stream.getvalue(), MIDDLE), 4, np.random.default_rng(0))
    assert [one.image.mode for one in made] == ["RGB"] * 4


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(16, 400),
    height=st.integers(16, 400),
    corner=st.tuples(st.floats(0, 0.85), st.floats(0, 0.85)),
    region=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_variant_is_larger_than_asked_or_stretched(
    width: int, height: int, corner: tuple[float, float], region: bool, seed: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    box = (*corner, min(1.0, corner[0] + 0.3), min(1.0, corner[1] + 0.15)) if region else None
    product = product_of(Image.fromarray(noise), box)
    for one in LocalImages(100).variants(product, 4, np.random.default_rng(seed)):
        assert max(one.image.size) <= min(100, max(width, height))
        if one.source != "detail":
            assert abs(one.image.width / one.image.height - width / height) < 0.1 * width / height
