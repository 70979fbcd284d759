"""Pictures of products: from a table cell to bytes, from bytes to RGB pixels, trusting neither.

A cell is the layout of Hugging Face `datasets`: `{"bytes": ..., "path": ...}`, where a path is relative to
the folder of its table and may not leave it. Sizes are bounded before anything is decoded.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from moonrec.errors import UserError

MAX_IMAGE_BYTES = 64 * 2**20
MAX_IMAGE_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class BrokenImage(Exception):
    """A picture that cannot be used; the message is the reason, in a few words."""


def image_bytes(cell: Mapping[str, object] | None, folder: Path) -> bytes | None:
    """Encoded bytes of an image cell: its own, otherwise those of the file it names; None if it has neither.

    Args:
        cell: mapping with `bytes` and `path`, either of which may be missing or None.
        folder: the folder that paths start from and may not leave.

    Raises:
        BrokenImage: the bytes are empty or too many, or the file is missing or not an ordinary one.
        UserError: the path is absolute, holds a NUL, or leads (also through links) out of `folder`.
    """
    if cell is None:
        return None
    data, path = cell.get("bytes"), cell.get("path")
    if isinstance(data, bytes | bytearray | memoryview):
        return _bounded(bytes(data))
    if isinstance(path, str):
        return _bounded(_read(path, folder))
    return None


def decode_image(data: bytes, draft_size: int | None = None) -> Image.Image:
    """Decode one picture to upright RGB: first frame, EXIF orientation applied, transparency over white.

    Args:
        data: an encoded JPEG, PNG, WebP, GIF, BMP or TIFF.
        draft_size: the side to which the caller will shrink the picture; a much larger JPEG is then decoded
            at 1/2, 1/4 or 1/8 of its scale, with sides of at least twice this size.

    Raises:
        BrokenImage: another format, damaged, or more than `MAX_IMAGE_PIXELS` pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise BrokenImage(f"{image.width} x {image.height} pixels, more than {MAX_IMAGE_PIXELS:,}")
        if draft_size is not None:
            image.draft(None, (2 * draft_size, 2 * draft_size))
        image.load()
        return _rgb(_upright(image))
    except BrokenImage:
        raise
    except Image.UnidentifiedImageError:
        raise BrokenImage(f"not a picture in a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BrokenImage(f"more than {MAX_IMAGE_PIXELS:,} pixels") from None
    except Exception as error:  # on hostile bytes Pillow's decoders raise nearly any type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenImage(f"cannot be decoded ({reason[:100]})") from error


def _bounded(data: bytes) -> bytes:
    if not data:
        raise BrokenImage("no bytes")
    if len(data) > MAX_IMAGE_BYTES:
        raise BrokenImage(f"larger than {MAX_IMAGE_BYTES // 2**20} MiB")
    return data


def _read(path: str, folder: Path) -> bytes:
    root = folder.resolve()
    leaves = f"image path {path[:200]!r} leaves the folder {root}; give paths inside it, relative to it"
    if "\0" in path or os.path.isabs(path):
        raise UserError(leaves)
    try:
        target = (root / path).resolve()
        if not target.is_relative_to(root):
            raise UserError(leaves)
        # O_NONBLOCK: opening a fifo would otherwise wait for its writer for ever.
        with open(
            target, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
        ) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BrokenImage(f"{path[:200]!r} is not an ordinary file")
            return file.read(MAX_IMAGE_BYTES + 1)
    except FileNotFoundError:
        raise BrokenImage(f"no file {path[:200]!r}") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # says nothing about the picture
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BrokenImage(f"cannot read {path[:200]!r} ({reason})") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the pixels
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of more than eight bits, scaled by the range that its largest value points to."""
    grey = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    largest = float(grey.max())
    floating = image.mode == "F"
    full = next((top for top in ((1.0,) if floating else ()) + (255.0, 65535.0) if largest <= top), largest)
    if image.mode.startswith("I;16"):
        full = 65535.0
    return Image.fromarray((grey * (255.0 / full)).round().astype(np.uint8))
