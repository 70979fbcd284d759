from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moonrec import images
from moonrec.errors import UserError
from moonrec.images import BrokenImage, decode_image, image_bytes


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def pixel(data: bytes) -> tuple[int, ...]:
    value = decode_image(data).getpixel((0, 0))
    assert isinstance(value, tuple)
    return value


def test_own_bytes_come_before_a_path_and_no_picture_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"file")
    assert image_bytes({"bytes": b"own", "path": "/anywhere/at/all.png"}, tmp_path) == b"own"
    assert image_bytes({"bytes": None, "path": "a.png"}, tmp_path) == b"file"
    assert image_bytes({"path": "a.png"}, tmp_path) == b"file"
    assert image_bytes({"bytes": None, "path": None}, tmp_path) is None
    assert image_bytes(None, tmp_path) is None


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "sub/../../secret", "link", "linked/secret", "a\0b"]
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "table"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"leaves the folder"):
        image_bytes({"path": path}, folder)


def test_links_inside_the_folder_and_a_linked_folder_are_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "a").write_bytes(b"x")
    (real / "b").symlink_to(real / "a")
    (tmp_path / "table").symlink_to(real)
    assert image_bytes({"path": "b"}, tmp_path / "table") == b"x"


def test_files_that_are_no_pictures_are_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "big").write_bytes(b"x" * 11)
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 10)
    for path in ("empty", "loop", "big", "fifo", "missing", ".", "", "x" * 5000, "big/below"):
        with pytest.raises(BrokenImage):
            image_bytes({"path": path}, tmp_path)
    for data in (b"", b"x" * 11):
        with pytest.raises(BrokenImage):
            image_bytes({"bytes": data}, tmp_path)


@pytest.mark.parametrize("form", images.FORMATS)
def test_every_format_decodes_to_rgb(form: str) -> None:
    decoded = decode_image(encoded(Image.new("RGB", (9, 7), (200, 30, 30)), form))
    assert decoded.mode == "RGB"
    assert decoded.size == (9, 7)
    assert np.abs(np.asarray(decoded).astype(int) - [200, 30, 30]).max() <= 8


def test_other_formats_are_refused() -> None:
    for data in (
        encoded(noise(4, 4), "PPM"),
        encoded(noise(4, 4), "ICO"),
        b"<svg/>",
        b"%PDF-1.4",
        b"\0" * 100,
    ):
        with pytest.raises(BrokenImage, match="known format"):
            decode_image(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_cut_off_picture_is_broken(form: str) -> None:
    data = encoded(noise(64, 64), form)
    with pytest.raises(BrokenImage):
        decode_image(data[: len(data) // 2])


def outcome(data: bytes) -> str:
    try:
        return decode_image(data).mode
    except BrokenImage as error:
        return str(error)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own remarks about damaged tags
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_damage_never_raises_anything_but_broken_image(form: str) -> None:
    data, rng = encoded(noise(32, 32), form), np.random.default_rng(1)
    for _ in range(60):
        harmed = bytearray(data)
        for position in rng.integers(0, len(harmed), 8):
            harmed[position] = rng.integers(0, 256)
        assert "\n" not in outcome(bytes(harmed))


def test_too_many_pixels_are_refused_from_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 99)
    with pytest.raises(BrokenImage, match="10 x 10 pixels"):
        decode_image(encoded(noise(10, 10)))


def test_a_decompression_bomb_is_broken() -> None:
    header = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    header[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(BrokenImage, match="pixels"):
        decode_image(bytes(header))


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert pixel(encoded(clear)) == (255, 255, 255)
    assert pixel(encoded(clear.convert("LA"))) == (255, 255, 255)
    assert pixel(encoded(Image.new("P", (4, 4), 0), transparency=0)) == (255, 255, 255)
    assert pixel(encoded(Image.new("RGB", (4, 4), (9, 9, 9)), transparency=(9, 9, 9))) == (255, 255, 255)
    assert pixel(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))) == (255, 127, 127)


def test_deep_grey_keeps_its_brightness() -> None:
    half16 = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert pixel(encoded(half16)) == pixel(encoded(half16, "TIFF")) == (128, 128, 128)
    half_float = Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32))
    assert pixel(encoded(half_float, "TIFF")) == (128, 128, 128)
    assert pixel(encoded(Image.fromarray(np.full((4, 4), 70, dtype=np.int32)), "TIFF")) == (70, 70, 70)


def test_cmyk_and_one_bit_become_rgb() -> None:
    red, green, blue = pixel(encoded(Image.new("RGB", (16, 16), (0, 255, 0)).convert("CMYK"), "JPEG"))
    assert green > 200 > 60 > max(red, blue)
    assert pixel(encoded(Image.new("1", (4, 4), 1))) == (255, 255, 255)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_counts(form: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    red, _, blue = pixel(encoded(frames[0], form, save_all=True, append_images=frames[1:]))
    assert red > 240 > 15 > blue


def test_camera_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert decode_image(encoded(noise(20, 10), "JPEG", exif=exif)).size == (10, 20)


def test_draft_shrinks_large_jpegs_but_not_below_twice_the_size() -> None:
    data = encoded(noise(1600, 800), "JPEG")
    assert decode_image(data).size == (1600, 800)
    assert decode_image(data, draft_size=100).size == (400, 200)
    assert decode_image(data, draft_size=300).size == (1600, 800)
    assert decode_image(encoded(noise(1600, 800)), draft_size=100).size == (1600, 800)


def test_decoding_is_the_same_in_many_threads() -> None:
    data = [encoded(noise(40 + i, 30), form) for i in range(20) for form in ("PNG", "JPEG")]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode_image, data))
    assert all(a.tobytes() == decode_image(d).tobytes() for a, d in zip(together, data, strict=True))
